//! Which request does what: one table, from which requests are answered and the OpenAPI document is made.

use super::http::{Request, Response};
use crate::vm::State;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Longest deadline of a shutdown: a day.
const MAX_DEADLINE_MS: u64 = 24 * 3600 * 1000;

/// What the API steers.
pub trait Target: Send + Sync {
    /// What does not change, and the state.
    fn info(&self) -> Info;
    /// All counters.
    fn counters(&self) -> Vec<(String, u64)>;
    /// Running → Paused.
    fn pause(&self) -> bool;
    /// Paused → Running.
    fn resume(&self) -> bool;
    /// Presses the power button; forces the end after `deadline`, if one is given.
    fn power_button(&self, deadline: Option<Duration>) -> bool;
    /// Ends the VM.
    fn stop(&self) -> bool;
}

/// What is told of a VM.
#[derive(Clone, Debug)]
pub struct Info {
    /// Name.
    pub name: String,
    /// State.
    pub state: State,
    /// Host CPUs that each vCPU may run on.
    pub cpus: Vec<Vec<u32>>,
    /// Bytes of memory.
    pub memory: u64,
    /// Names of the devices.
    pub devices: Vec<String>,
}

/// Body of the power button.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PowerButton {
    deadline_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Info,
    Stats,
    Metrics,
    OpenApi,
    Pause,
    Resume,
    PowerButton,
    Stop,
}

struct Route {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    action: Action,
}

const ROUTES: [Route; 8] = [
    Route { method: "GET", path: "/vm", summary: "What the VM is and its state", action: Action::Info },
    Route { method: "GET", path: "/vm/stats", summary: "All counters by name", action: Action::Stats },
    Route {
        method: "GET",
        path: "/metrics",
        summary: "All counters for Prometheus",
        action: Action::Metrics,
    },
    Route { method: "GET", path: "/openapi.json", summary: "This document", action: Action::OpenApi },
    Route { method: "PUT", path: "/vm/pause", summary: "Hold all vCPUs", action: Action::Pause },
    Route { method: "PUT", path: "/vm/resume", summary: "Let them run again", action: Action::Resume },
    Route {
        method: "PUT",
        path: "/vm/power-button",
        summary: "Press the ACPI power button; end the VM by force when deadline_ms is over",
        action: Action::PowerButton,
    },
    Route { method: "PUT", path: "/vm/stop", summary: "End the VM at once", action: Action::Stop },
];

/// Answers a request.
pub fn answer(request: &Request, target: &dyn Target) -> Response {
    let mut here = ROUTES.iter().filter(|r| r.path == request.path).peekable();
    if here.peek().is_none() {
        return Response::problem(404, "there is no such resource");
    }
    let methods: Vec<_> = here.clone().map(|r| r.method).collect();
    match here.find(|r| r.method == request.method) {
        Some(route) => act(route.action, &request.body, target),
        None => Response::allow(&methods.join(", ")),
    }
}

fn act(action: Action, body: &[u8], target: &dyn Target) -> Response {
    match action {
        Action::Info => Response::json(200, &info(&target.info())),
        Action::Stats => {
            let counters: Map<_, _> =
                target.counters().into_iter().map(|(name, n)| (name, n.into())).collect();
            Response::json(200, &Value::Object(counters))
        }
        Action::Metrics => Response::text(metrics(&target.info().name, &target.counters())),
        Action::OpenApi => Response::json(200, &openapi()),
        Action::Pause => changed(target.pause(), target),
        Action::Resume => changed(target.resume(), target),
        Action::Stop => changed(target.stop(), target),
        Action::PowerButton => match power_button(body) {
            Ok(deadline) => changed(target.power_button(deadline), target),
            Err(why) => Response::problem(400, &why),
        },
    }
}

fn power_button(body: &[u8]) -> Result<Option<Duration>, String> {
    if body.is_empty() {
        return Ok(None);
    }
    let body: PowerButton = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    match body.deadline_ms {
        Some(ms) if ms > MAX_DEADLINE_MS => Err(format!("deadline_ms: {ms} is above {MAX_DEADLINE_MS}")),
        ms => Ok(ms.map(Duration::from_millis)),
    }
}

fn changed(done: bool, target: &dyn Target) -> Response {
    let info = target.info();
    if done {
        return Response::json(202, &json!({"state": state_name(&info.state)}));
    }
    Response::problem(409, &format!("not possible while the VM is {}", state_name(&info.state)))
}

fn state_name(state: &State) -> &'static str {
    match state {
        State::Created => "created",
        State::Running => "running",
        State::Paused => "paused",
        State::Ended(_) => "ended",
    }
}

fn info(info: &Info) -> Value {
    json!({
        "name": info.name,
        "state": state_name(&info.state),
        "cpus": info.cpus.iter().map(|bound| json!({"host_cpus": bound})).collect::<Vec<_>>(),
        "memory_bytes": info.memory,
        "devices": info.devices,
    })
}

/// One family, the counter's own name as a label: names are made by KVM and differ from kernel to kernel.
fn metrics(name: &str, counters: &[(String, u64)]) -> String {
    let mut text = "# HELP sluice_vm_counter Counters of the VM, its vCPUs and devices.\n# TYPE sluice_vm_counter untyped\n".to_owned();
    for (counter, n) in counters {
        text += &format!("sluice_vm_counter{{vm=\"{name}\",name=\"{counter}\"}} {n}\n");
    }
    text
}

fn openapi() -> Value {
    let mut paths = Map::new();
    for route in &ROUTES {
        let mut operation = json!({
            "summary": route.summary,
            "responses": {
                "default": {"description": "problem", "content": {"application/problem+json": {}}},
                (if route.method == "GET" { "200" } else { "202" }): {"description": "done"},
            },
        });
        if route.action == Action::PowerButton {
            operation["requestBody"] = json!({"content": {"application/json": {"schema": {
                "type": "object", "additionalProperties": false,
                "properties": {"deadline_ms": {"type": "integer", "minimum": 0, "maximum": MAX_DEADLINE_MS}},
            }}}});
        }
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "sluice-vmm", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::Outcome;
    use std::sync::Mutex;

    struct Fake(Mutex<(State, Option<Duration>)>);

    impl Target for Fake {
        fn info(&self) -> Info {
            let state = self.0.lock().expect("lock").0.clone();
            Info {
                name: "a".into(),
                state,
                cpus: vec![vec![2]],
                memory: 1 << 30,
                devices: vec!["disk0".into()],
            }
        }
        fn counters(&self) -> Vec<(String, u64)> {
            vec![("vcpu0.exit.halt".into(), 7)]
        }
        fn pause(&self) -> bool {
            let mut state = self.0.lock().expect("lock");
            let ok = state.0 == State::Running;
            state.0 = State::Paused;
            ok
        }
        fn resume(&self) -> bool {
            false
        }
        fn power_button(&self, deadline: Option<Duration>) -> bool {
            self.0.lock().expect("lock").1 = deadline;
            true
        }
        fn stop(&self) -> bool {
            self.0.lock().expect("lock").0 = State::Ended(Outcome::Stopped);
            true
        }
    }

    fn ask(target: &Fake, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = Request { method: method.into(), path: path.into(), body: body.into() };
        let response = answer(&request, target);
        (response.status, serde_json::from_slice(response.body()).unwrap_or_default())
    }

    #[test]
    fn states_are_told_and_conflicts_are_named() {
        let target = Fake(Mutex::new((State::Running, None)));
        assert_eq!(ask(&target, "GET", "/vm", "").1["cpus"][0]["host_cpus"][0], 2);
        assert_eq!(ask(&target, "PUT", "/vm/pause", "").0, 202);
        let (status, body) = ask(&target, "PUT", "/vm/pause", "");
        assert_eq!((status, body["detail"].as_str()), (409, Some("not possible while the VM is paused")));
        assert_eq!(ask(&target, "PUT", "/vm/stop", "").1["state"], "ended");
        assert_eq!(ask(&target, "GET", "/vm/stats", "").1["vcpu0.exit.halt"], 7);
    }

    #[test]
    fn bad_requests_are_problems() {
        let target = Fake(Mutex::new((State::Running, None)));
        assert_eq!(ask(&target, "GET", "/nowhere", "").0, 404);
        assert_eq!(ask(&target, "DELETE", "/vm", "").0, 405);
        assert_eq!(ask(&target, "PUT", "/vm/power-button", "{").0, 400);
        assert_eq!(ask(&target, "PUT", "/vm/power-button", r#"{"deadline": 1}"#).0, 400);
        assert_eq!(ask(&target, "PUT", "/vm/power-button", r#"{"deadline_ms": 99999999999}"#).0, 400);
        assert_eq!(ask(&target, "PUT", "/vm/power-button", r#"{"deadline_ms": 1500}"#).0, 202);
        assert_eq!(target.0.lock().expect("lock").1, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn the_document_and_the_metrics_know_every_route_and_counter() {
        let document = openapi();
        for route in &ROUTES {
            assert!(document["paths"][route.path][route.method.to_lowercase()].is_object(), "{}", route.path);
        }
        let text = metrics("a", &[("x.y".into(), 3)]);
        assert!(text.ends_with("sluice_vm_counter{vm=\"a\",name=\"x.y\"} 3\n"));
    }
}
