//! What an operator asks over the API.

use super::documents::Accepted;
use super::{Engine, diff};
use crate::generation::{self, Verdict};
use crate::goal::{self, Inputs, RowCache};
use crate::host::{Host, HostError};
use crate::ledger::{Kept, LedgerError};
use crate::plan::{Step, plan};
use serde_json::Value;
use sluice_api::check::{CheckedDocument, Desired, FieldError, check_set, parse_document};
use sluice_api::placement::{Document, Protocol};
use sluice_api::proxy_admin::{Answer, Purge, Request};
use sluice_api::rest::{
    Applied, Change, Diff, DrainDeadline, DrainKind, DrainReport, DrainRequest, PacketQuery, Trace,
    TraceRequest, Upgraded,
};
use sluice_loader::{FiveTuple, Proto};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Steps listed in an answer; a first document of many VIPs has more.
const STEPS_SHOWN_MAX: usize = 1000;

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// Fields at fault.
    #[error("the document is refused")]
    Invalid(Vec<FieldError>),
    /// The generation rule.
    #[error("{0}")]
    Generation(generation::Refused),
    /// No such thing.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// The proxy refused or is not there.
    #[error("{0}")]
    Proxy(String),
    /// Disk, kernel.
    #[error("{0}")]
    Internal(String),
}

/// A document put over the API.
#[derive(Clone, Debug)]
pub struct Put {
    /// Name in the path.
    pub name: String,
    /// YAML or JSON.
    pub text: Vec<u8>,
    /// Change nothing.
    pub dry_run: bool,
    /// When it arrived, monotonic.
    pub seen_us: u64,
}

struct Judged {
    document: Arc<CheckedDocument>,
    verdict: Verdict,
    held: BTreeMap<String, Arc<CheckedDocument>>,
    desired: Desired,
}

impl<H: Host> Engine<H> {
    fn judge(&self, text: &[u8]) -> Result<Judged, ApiError> {
        let document = Arc::new(parse_document(text).map_err(ApiError::Invalid)?);
        let name = document.name().to_owned();
        let verdict = generation::judge(self.documents.held.get(&name).map(Arc::as_ref), &document)
            .map_err(ApiError::Generation)?;
        let mut held = self.documents.held.clone();
        held.insert(name, Arc::clone(&document));
        let desired = check_set(held.values().map(Arc::as_ref)).map_err(ApiError::Invalid)?;
        Ok(Judged { document, verdict, held, desired })
    }

    /// Puts a document in force, and into the source's directory.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn put_document(&mut self, put: &Put) -> Result<Applied, ApiError> {
        let judged = self.judge(&put.text)?;
        let document = &judged.document;
        if document.name() != put.name {
            let message = format!("the document is named {:?}, the path {:?}", document.name(), put.name);
            return Err(ApiError::BadRequest(message));
        }
        let change = match judged.verdict {
            Verdict::Create => Change::Created,
            Verdict::Replace => Change::Replaced,
            Verdict::Same => Change::Unchanged,
        };
        let steps = self.steps_for(&judged.desired)?;
        let applied = Applied {
            name: put.name.clone(),
            generation: document.generation(),
            change,
            dry_run: put.dry_run,
            steps: shown(&steps),
        };
        if put.dry_run || judged.verdict == Verdict::Same {
            return Ok(applied);
        }
        let file = self.write_file(&put.name, &put.text)?;
        let kept = Kept { generation: document.generation(), file: file.clone(), text: put.text.clone() };
        let accepted = Accepted {
            held: judged.held,
            desired: judged.desired,
            replaced: BTreeMap::from([(put.name.clone(), kept)]),
            removed: BTreeSet::new(),
        };
        if !self.make_durable(accepted, Some(put.seen_us)) {
            return Err(ApiError::Internal(
                "the ledger refused; the file is written and is tried again".to_owned(),
            ));
        }
        self.forget_file(&file, !file.is_empty());
        Ok(applied)
    }

    /// Takes a document out of force, and its file out of the directory.
    ///
    /// # Errors
    /// There is none, or other documents need it.
    pub fn delete_document(&mut self, name: &str, dry_run: bool) -> Result<Applied, ApiError> {
        let Some(kept) = self.ledger.documents().get(name).cloned() else {
            return Err(ApiError::NotFound(format!("there is no document {name:?}")));
        };
        let mut held = self.documents.held.clone();
        held.remove(name);
        let desired = check_set(held.values().map(Arc::as_ref)).map_err(ApiError::Invalid)?;
        let steps = shown(&self.steps_for(&desired)?);
        let applied = Applied {
            name: name.to_owned(),
            generation: kept.generation,
            change: Change::Deleted,
            dry_run,
            steps,
        };
        if dry_run {
            return Ok(applied);
        }
        if let Some(dir) = self.config.placements.as_ref().filter(|_| !kept.file.is_empty()) {
            match std::fs::remove_file(dir.join(&kept.file)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ApiError::Internal(format!("remove {}: {error}", kept.file)));
                }
                _ => {}
            }
        }
        let removed = BTreeSet::from([name.to_owned()]);
        if !self.make_durable(Accepted { held, desired, replaced: BTreeMap::new(), removed }, None) {
            return Err(ApiError::Internal("the ledger refused".to_owned()));
        }
        self.forget_file(&kept.file, false);
        Ok(applied)
    }

    /// What a document would change.
    ///
    /// # Errors
    /// It would be refused.
    pub fn diff(&self, text: &[u8]) -> Result<Diff, ApiError> {
        let judged = self.judge(text)?;
        let name = judged.document.name().to_owned();
        let now = self.ledger.documents().get(&name);
        let value = |text: &[u8]| -> Value {
            raw_document(text).and_then(|d| serde_json::to_value(d).ok()).unwrap_or(Value::Null)
        };
        let from = now.map_or(Value::Object(serde_json::Map::new()), |kept| value(&kept.text));
        let (fields, fields_left_out) = diff::diff(&from, &value(text));
        Ok(Diff {
            generation_now: now.map(|kept| kept.generation),
            generation_new: judged.document.generation(),
            change: match judged.verdict {
                Verdict::Create => Change::Created,
                Verdict::Replace => Change::Replaced,
                Verdict::Same => Change::Unchanged,
            },
            fields,
            fields_left_out,
            steps: shown(&self.steps_for(&judged.desired)?),
            name,
        })
    }

    /// Steps this node would carry out for a desired state, with nothing made durable.
    fn steps_for(&self, desired: &Desired) -> Result<Vec<Step>, ApiError> {
        let wanted = goal::id_keys(&self.config.node, desired);
        let internal = |error: LedgerError| ApiError::Internal(error.to_string());
        let mut ids = self.ledger.ids().clone();
        let limit = self.host.backend_id_max();
        if let Some(change) = ids.change_to(&wanted, &BTreeSet::new(), 0, 0, limit).map_err(internal)? {
            ids.take(&change);
        }
        let health = self.health_seen();
        let inputs = Inputs { desired, ids: &ids, ..self.inputs(&health) };
        let made = goal::make(&inputs, &mut goal::Tables::default(), &mut RowCache::default());
        Ok(plan(&made.goal, &self.observed))
    }

    /// Writes a document's file: the one it came from, or its name with an ending that fits.
    fn write_file(&self, name: &str, text: &[u8]) -> Result<String, ApiError> {
        let Some(dir) = &self.config.placements else { return Ok(String::new()) };
        let json = text.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
        let fresh = || format!("{name}.{}", if json { "json" } else { "yaml" });
        let known = self.ledger.documents().get(name).map(|kept| kept.file.clone());
        let file = known.filter(|file| !file.is_empty()).unwrap_or_else(fresh);
        write_atomically(dir, &file, text).map_err(|e| ApiError::Internal(format!("write {file}: {e}")))?;
        Ok(file)
    }

    /// Drains, or takes a drain back.
    ///
    /// # Errors
    /// Nothing has that name, or the ledger refused.
    pub fn drain(&mut self, request: &DrainRequest, on: bool) -> Result<DrainReport, ApiError> {
        self.drain_for(request, on, None)
    }

    /// The same; after `deadline_ms` a drained backend keeps no flow.
    ///
    /// # Errors
    /// As [`Self::drain`], or a member is given a deadline.
    pub fn drain_for(
        &mut self,
        request: &DrainRequest,
        on: bool,
        deadline_ms: Option<u64>,
    ) -> Result<DrainReport, ApiError> {
        if deadline_ms.is_some() && request.kind == DrainKind::Member {
            let message = "a member's proxy ends its connections itself: no deadline here".to_owned();
            return Err(ApiError::BadRequest(message));
        }
        let affected = self.drain_affects(request);
        if affected.is_empty() && on {
            let kind = format!("{:?}", request.kind).to_lowercase();
            return Err(ApiError::NotFound(format!(
                "no {kind} is named {:?} in the documents in force",
                request.name
            )));
        }
        let now = self.clock.now();
        let at_ms = deadline_ms.map(|ms| now.wall_ms().saturating_add(ms));
        let changed = self.ledger.set_drain_until(request, on, at_ms).map_err(|error| {
            if !matches!(error, LedgerError::TooManyDrains) {
                self.ledger_failed(&error.to_string());
            }
            ApiError::Internal(error.to_string())
        })?;
        if changed {
            self.ledger_works();
            let kind = if on { "drain" } else { "undrain" };
            self.events.add(now, kind, request.name.clone(), affected.join(", "));
            self.reconcile();
        }
        let deadline = |(drain, at_ms): (&DrainRequest, &u64)| DrainDeadline {
            kind: drain.kind,
            name: drain.name.clone(),
            at_ms: *at_ms,
        };
        Ok(DrainReport {
            drains: self.ledger.drains().iter().cloned().collect(),
            deadlines: self.ledger.drain_deadlines().iter().map(deadline).collect(),
            affected,
        })
    }

    fn drain_affects(&self, request: &DrainRequest) -> Vec<String> {
        let mut affected = Vec::new();
        let (kind, name) = (request.kind, request.name.as_str());
        if matches!(kind, DrainKind::Backend | DrainKind::Node) {
            for pool in self.desired.pools().values() {
                for backend in pool.backends() {
                    let full = format!("{}/{}", pool.name(), backend.name());
                    if backend.name() == name || (kind == DrainKind::Backend && full == name) {
                        affected.push(format!("backend {full}"));
                    }
                }
            }
        }
        if kind == DrainKind::Node {
            // A box that announces its VIPs gives them up; one that routers find otherwise cannot.
            let vips =
                self.desired.vips().values().filter(|vip| vip.announce() && vip.nodes().contains(name));
            affected.extend(vips.map(|vip| format!("announcement of vip {} by {name}", vip.name())));
        }
        if matches!(kind, DrainKind::Member | DrainKind::Node) {
            for group in self.desired.groups().values() {
                for (list, members) in [("member", group.members()), ("parent", group.parents())] {
                    let there = members.iter().any(|m| m.name() == name);
                    affected.extend(there.then(|| format!("{list} {name} of group {}", group.name())));
                }
            }
        }
        affected
    }

    /// Where a packet or URL would go.
    ///
    /// # Errors
    /// The question is unclear, or there is nobody to ask.
    pub fn trace(&mut self, request: &TraceRequest) -> Result<Trace, ApiError> {
        match (&request.packet, &request.url) {
            (Some(packet), None) => self.trace_packet(packet),
            (None, Some(url)) => {
                let ask = Request::Trace { method: request.method.clone(), url: url.clone() };
                match self.host.ask_proxy(&ask) {
                    Ok(Answer::Trace(trace)) => Ok(Trace {
                        verdict: trace.next_hop.clone(),
                        why: trace.why.clone(),
                        url: Some(trace),
                        ..Trace::default()
                    }),
                    other => Err(proxy_error(other)),
                }
            }
            _ => Err(ApiError::BadRequest("give exactly one of packet and url".to_owned())),
        }
    }

    fn trace_packet(&mut self, packet: &PacketQuery) -> Result<Trace, ApiError> {
        let flow = FiveTuple {
            proto: match packet.protocol {
                Protocol::Tcp => Proto::Tcp,
                Protocol::Udp => Proto::Udp,
            },
            src: packet.src,
            sport: packet.src_port,
            dst: packet.dst,
            dport: packet.dst_port,
            syn: packet.protocol == Protocol::Tcp,
        };
        if packet.src.is_ipv4() != packet.dst.is_ipv4() {
            return Err(ApiError::BadRequest("source and destination are of different families".to_owned()));
        }
        let internal = |e: HostError| ApiError::Internal(e.message);
        let Some(found) = self.host.trace(&flow).map_err(internal)? else {
            let why = vec!["this node balances no VIP: every packet is passed to its own stack".to_owned()];
            return Ok(Trace { verdict: "pass".to_owned(), why, ..Trace::default() });
        };
        let name = |id: u16| self.backend_name(id);
        let vip = found.vip.map(|key| {
            let vips = self.desired.vips().values();
            let named = vips.into_iter().find(|vip| vip.address().to_string() == key.to_string());
            named.map_or_else(|| key.to_string(), |vip| vip.name().to_owned())
        });
        let local = found.mode == Some(sluice_loader::Mode::Local);
        let verdict = match (found.backend, &vip) {
            (Some(_), _) => "forward",
            (None, Some(_)) if !local => "drop",
            (None, _) => "pass",
        };
        let previous = found.owners.filter(|slot| slot.window_open()).map(|slot| name(slot.previous()));
        Ok(Trace {
            verdict: verdict.to_owned(),
            vip,
            slot: found.slot,
            backend: found.backend.map(name),
            previous_backend: previous,
            url: None,
            why: found.why,
        })
    }

    /// `pool/name` of an id.
    pub(crate) fn backend_name(&self, id: u16) -> String {
        let key =
            self.ledger.ids().key_of(id).map(|key| key.split('/').take(2).collect::<Vec<_>>().join("/"));
        key.unwrap_or_else(|| format!("id {id}"))
    }

    /// Makes the proxy forget stored responses.
    ///
    /// # Errors
    /// No proxy, or it refused.
    pub fn purge(&mut self, purge: Purge) -> Result<(), ApiError> {
        match self.host.ask_proxy(&Request::Purge(purge)) {
            Ok(Answer::Done {}) => Ok(()),
            other => Err(proxy_error(other)),
        }
    }

    /// Replaces the proxy process by a new one of the same program file, sockets and connections kept.
    ///
    /// # Errors
    /// None runs, or the successor failed: the old one goes on.
    pub fn upgrade_proxy(&mut self) -> Result<Upgraded, ApiError> {
        let Some(old) = self.observed.proxy.clone() else {
            return Err(ApiError::NotFound("no proxy runs on this node".to_owned()));
        };
        let spec = self.made.goal.proxy.as_ref().map_or(old.spec, |goal| goal.spec.clone());
        let step = Step::UpgradeProxy(spec);
        self.host.apply(&step).map_err(|e| ApiError::Proxy(e.message))?;
        self.observed.apply(&step);
        let new_pid = self.host.observe().ok().and_then(|o| o.proxy).map_or(0, |p| p.pid);
        if let Some(proxy) = &mut self.observed.proxy {
            proxy.pid = new_pid;
        }
        let now = self.clock.now();
        let values = [("old_pid", u64::from(old.pid)), ("new_pid", u64::from(new_pid))];
        let message = format!("process {new_pid} took over from {}", old.pid);
        self.events.add_with(now, "proxy_upgraded", "proxy", message, &values);
        self.reconcile();
        let revision = self.observed.proxy.as_ref().map_or(0, |p| p.revision);
        Ok(Upgraded { old_pid: old.pid, new_pid, revision })
    }

    /// Takes everything off the node. The engine does nothing afterwards; the ledger stays.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn release(&mut self) -> Result<(), ApiError> {
        self.released = true;
        let errors = self.host.release();
        self.events.add(
            self.clock.now(),
            "released",
            self.config.node.clone(),
            "everything is off this node".to_owned(),
        );
        if errors.is_empty() {
            return Ok(());
        }
        let all: Vec<String> = errors.into_iter().map(|e| e.message).collect();
        Err(ApiError::Internal(all.join("; ")))
    }
}

fn proxy_error(answer: Result<Answer, HostError>) -> ApiError {
    match answer {
        Ok(other) => ApiError::Proxy(format!("the proxy answered something else: {other:?}")),
        Err(error) => ApiError::Proxy(error.message),
    }
}

/// A document that passed its checks, as raw fields with defaults written out.
fn raw_document(text: &[u8]) -> Option<Document> {
    serde_json::from_slice(text).ok().or_else(|| serde_norway::from_slice(text).ok())
}

fn shown(steps: &[Step]) -> Vec<String> {
    let mut lines: Vec<String> = steps.iter().take(STEPS_SHOWN_MAX).map(Step::to_string).collect();
    if steps.len() > STEPS_SHOWN_MAX {
        lines.push(format!("and {} more steps", steps.len() - STEPS_SHOWN_MAX));
    }
    lines
}

/// A reader sees the old file or the new one, also after a power cut.
fn write_atomically(dir: &Path, file: &str, text: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let temporary = dir.join(format!(".{file}.tmp-{}", std::process::id()));
    let write = || {
        let mut out = std::fs::File::create(&temporary)?;
        out.write_all(text)?;
        out.sync_all()?;
        std::fs::rename(&temporary, dir.join(file))?;
        std::fs::File::open(dir)?.sync_all()
    };
    let result = write();
    if result.is_err() {
        // What is left of a failed write is ignored by the source; removing it is a courtesy.
        drop(std::fs::remove_file(&temporary));
    }
    result
}
