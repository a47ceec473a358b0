//! The lab while it is up: samples every second until its time is over, someone asks for the end, or a scenario
//! is through.

use super::load::{Load, LoadPlan};
use super::observe::{Observer, Sample};
use super::view::json::Quiet;
use super::view::text::Lines;
use super::view::tui::Tui;
use super::view::{View, summary};
use super::{Lab, Stop, ready, scenario};
use crate::args::{Global, LabArgs, Output};
use crate::exit;
use anyhow::Result;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Between two samples.
const SAMPLE: Duration = Duration::from_secs(1);
/// Between two looks at keys and signals.
const TICK: Duration = Duration::from_millis(50);

/// How a lab ended.
pub struct Outcome {
    /// Exit code.
    pub code: u8,
    /// Summary, if the lab came that far.
    pub summary: Option<Value>,
}

fn view(args: &LabArgs, global: &Global) -> Result<Box<dyn View>> {
    let tui = match global.output {
        Some(Output::Json) => return Ok(Box::new(Quiet)),
        Some(Output::Table) => false,
        Some(Output::Tui) => true,
        None => std::io::stdout().is_terminal(),
    };
    if tui && args.scenario.is_none() {
        return Ok(Box::new(Tui::open(format!("sluice lab {:?}", args.prefix))?));
    }
    Ok(Box::new(Lines))
}

/// Runs what was asked for on a lab that is up.
pub async fn serve(lab: &mut Lab, args: &LabArgs, global: &Global, stop: &Stop) -> Result<Outcome> {
    ready::announce(lab, args, global);
    if let Some(name) = args.scenario {
        let json = global.json();
        let tell = move |report: &scenario::Report| {
            if !json {
                println!("{}", scenario::in_words(report));
            }
        };
        let reports = tokio::select! {
            reports = scenario::run(lab, name, args.seed, &tell) => reports?,
            () = stop.wait() => return Ok(Outcome { code: exit::FAILED, summary: None }),
        };
        let held = reports.iter().all(|r| r.held);
        let summary = json!({"event": "summary", "held": held, "scenarios": reports});
        return Ok(Outcome { code: if held { exit::OK } else { exit::FAILED }, summary: Some(summary) });
    }
    let load = match args.no_load {
        true => None,
        false => {
            let plan = LoadPlan::steady(args.rate, args.seed);
            Some(Load::start(&lab.plan, plan, &mut lab.processes, &lab.run, &mut lab.state)?)
        }
    };
    let mut view = view(args, global)?;
    let ended = watch(lab, args, load, view.as_mut(), stop).await;
    view.close();
    let summary = ended?;
    Ok(Outcome { code: exit::OK, summary: Some(summary) })
}

/// Samples until the end; the summary.
async fn watch(
    lab: &mut Lab,
    args: &LabArgs,
    mut load: Option<Load>,
    view: &mut dyn View,
    stop: &Stop,
) -> Result<Value> {
    let start = Instant::now();
    let until = args.duration.map(|s| start + Duration::from_secs(s));
    let mut observer = Observer::default();
    let mut last = Sample::default();
    let mut next = start + SAMPLE;
    loop {
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = stop.wait() => break,
        }
        if view.quit() || until.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        if Instant::now() < next {
            continue;
        }
        next += SAMPLE;
        let interval = load.as_mut().and_then(|l| l.intervals().pop());
        let mut sample = observer.sample(lab, start.elapsed().as_secs(), interval).await;
        for (name, status) in lab.processes.reap() {
            sample.events.push(format!("lab: {name} ended by itself ({status})"));
        }
        // Without load there is nothing to say every second, only what happens.
        if load.is_some() || !sample.events.is_empty() || !last.agents.eq(&sample.agents) {
            view.sample(&sample);
        }
        last = sample;
    }
    if let Some(load) = &mut load {
        load.stop(&mut lab.processes).await?;
    }
    let last = observer.sample(lab, start.elapsed().as_secs(), None).await;
    let (http, udp) = load.map_or((None, Vec::new()), |l| (l.summary, l.udp));
    Ok(summary(http.as_ref(), &udp, &last))
}
