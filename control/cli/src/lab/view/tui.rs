//! The terminal view. Draws from a model that [`super::View::sample`] fills; the terminal is put back on close
//! and on panic.

use super::View;
use super::text::{agents, ms};
use crate::lab::observe::{Sample, nonzero};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Gauge, Paragraph, Sparkline};
use ratatui::{DefaultTerminal, Frame};
use std::collections::VecDeque;
use std::time::Duration;

/// Seconds of history in the small graphs.
const HISTORY: usize = 240;
/// Latest events shown.
const EVENTS: usize = 12;

/// What is drawn.
#[derive(Default)]
pub struct Model {
    title: String,
    last: Sample,
    requests: VecDeque<u64>,
    latency_p99_us: VecDeque<u64>,
    errors: u64,
    total: u64,
    events: VecDeque<String>,
    packets_before: Vec<(String, u64)>,
    packet_shares: Vec<(String, f64)>,
}

impl Model {
    /// An empty model.
    pub fn new(title: String) -> Self {
        Model { title, ..Model::default() }
    }

    /// Takes in a second.
    pub fn add(&mut self, sample: &Sample) {
        let load = sample.load.as_ref();
        push(&mut self.requests, load.map_or(0, |l| l.requests));
        let p99 = load.and_then(|l| l.latency_us.get("p99")).copied().unwrap_or(0.0);
        push(&mut self.latency_p99_us, p99 as u64);
        self.errors += load.map_or(0, |l| l.errors);
        self.total += load.map_or(0, |l| l.requests);
        for event in &sample.events {
            self.events.push_front(format!("{:>4} s {event}", sample.t_s));
        }
        self.events.truncate(EVENTS);
        self.shares(sample);
        self.last = sample.clone();
    }

    /// Each backend's part of the packets of the last second.
    fn shares(&mut self, sample: &Sample) {
        let grown: Vec<(String, u64)> = sample
            .backends
            .iter()
            .map(|b| {
                let before = self.packets_before.iter().find(|(n, _)| *n == b.name).map_or(0, |(_, p)| *p);
                (b.name.clone(), b.packets.saturating_sub(before))
            })
            .collect();
        let total: u64 = grown.iter().map(|(_, n)| n).sum();
        if total > 0 {
            self.packet_shares = grown.into_iter().map(|(n, p)| (n, p as f64 / total as f64)).collect();
        }
        self.packets_before = sample.backends.iter().map(|b| (b.name.clone(), b.packets)).collect();
    }

    /// Draws everything.
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let rows = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(6),
            Constraint::Length(2 + self.last.backends.len().max(1) as u16),
            Constraint::Length(2 + self.last.agents.len().max(1) as u16),
            Constraint::Length(3),
            Constraint::Min(3),
        ])
        .split(frame.area());
        frame.render_widget(Paragraph::new(self.headline()), rows[0]);
        let graphs =
            Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).split(rows[1]);
        self.graph(frame, graphs[0], " requests/s ", &self.requests, Color::Cyan);
        self.graph(frame, graphs[1], " latency p99, us ", &self.latency_p99_us, Color::Yellow);
        self.draw_backends(frame, rows[2]);
        frame.render_widget(self.agent_list(), rows[3]);
        let drops = nonzero(&self.last.drops);
        let drops = if drops.is_empty() { "none".to_owned() } else { drops.join("  ") };
        frame.render_widget(Paragraph::new(drops).block(boxed(" drops by name ")), rows[4]);
        let events: Vec<Line<'_>> = self.events.iter().map(|e| Line::raw(e.as_str())).collect();
        frame.render_widget(Paragraph::new(events).block(boxed(" events (q ends the lab) ")), rows[5]);
    }

    fn headline(&self) -> Line<'_> {
        let mut spans = vec![Span::styled(self.title.as_str(), Style::new().add_modifier(Modifier::BOLD))];
        if let Some(load) = &self.last.load {
            let p = |name: &str| ms(load.latency_us.get(name));
            let hits = load.hit_ratio.map_or("-".into(), |r| format!("{:.1} %", r * 100.0));
            spans.push(Span::raw(format!(
                "  {} req/s  p50 {} p99 {} p99.9 {} ms  hits {hits}  {} requests  ",
                load.requests,
                p("p50"),
                p("p99"),
                p("p999"),
                self.total
            )));
        }
        let color = if self.errors == 0 { Color::Green } else { Color::Red };
        spans.push(Span::styled(format!("{} errors", self.errors), Style::new().fg(color)));
        Line::from(spans)
    }

    fn graph(&self, frame: &mut Frame<'_>, area: Rect, title: &str, values: &VecDeque<u64>, color: Color) {
        let room = usize::from(area.width.saturating_sub(2));
        let shown: Vec<u64> = values.iter().skip(values.len().saturating_sub(room)).copied().collect();
        let title =
            format!("{title}now {} max {} ", values.back().unwrap_or(&0), shown.iter().max().unwrap_or(&0));
        let graph = Sparkline::default().data(&shown).style(Style::new().fg(color)).block(boxed(title));
        frame.render_widget(graph, area);
    }

    fn draw_backends(&self, frame: &mut Frame<'_>, area: Rect) {
        let block = boxed(" backends: share of packets (slots, health) ");
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let lines = vec![Constraint::Length(1); self.last.backends.len()];
        for (backend, row) in self.last.backends.iter().zip(Layout::vertical(lines).split(inner).iter()) {
            let share = self.packet_shares.iter().find(|(n, _)| *n == backend.name).map_or(0.0, |(_, s)| *s);
            let color = match (backend.health.as_str(), backend.state.as_str()) {
                ("down", _) => Color::Red,
                (_, "drain") => Color::Yellow,
                _ => Color::Green,
            };
            let label = format!(
                "{} {:.1} % ({:.1} %, {} {})",
                backend.name,
                share * 100.0,
                backend.slots * 100.0,
                backend.health,
                backend.state
            );
            let gauge = Gauge::default()
                .ratio(share.clamp(0.0, 1.0))
                .label(label)
                .gauge_style(Style::new().fg(color));
            frame.render_widget(gauge, *row);
        }
    }

    fn agent_list(&self) -> Paragraph<'_> {
        let lines: Vec<Line<'_>> = self
            .last
            .agents
            .iter()
            .map(|a| {
                let good = a.reachable && a.converged && a.documents.iter().all(|d| d.1 == d.2 && !d.3);
                let documents: Vec<String> = a
                    .documents
                    .iter()
                    .map(|(name, generation, observed, refused)| {
                        let note = if *refused { " newest REFUSED" } else { "" };
                        format!("{name} {observed}/{generation}{note}")
                    })
                    .collect();
                let status = match (a.reachable, a.converged) {
                    (false, _) => "silent",
                    (true, false) => "working",
                    (true, true) => "converged",
                };
                let color = if good { Color::Green } else { Color::Yellow };
                Line::from(vec![
                    Span::raw(format!("{:<8}", a.node)),
                    Span::styled(format!("{status:<11}"), Style::new().fg(color)),
                    Span::raw(format!("{}  proxy restarts {}", documents.join("  "), a.proxy_restarts)),
                ])
            })
            .collect();
        Paragraph::new(lines).block(boxed(format!(" agents: {} ", agents(&self.last))))
    }
}

fn boxed<'a>(title: impl Into<Line<'a>>) -> Block<'a> {
    Block::new().borders(Borders::ALL).title(title)
}

fn push(values: &mut VecDeque<u64>, value: u64) {
    values.push_back(value);
    while values.len() > HISTORY {
        values.pop_front();
    }
}

/// The model on a terminal.
pub struct Tui {
    terminal: DefaultTerminal,
    model: Model,
    open: bool,
}

impl Tui {
    /// Takes the terminal.
    pub fn open(title: String) -> std::io::Result<Self> {
        let terminal = ratatui::try_init()?;
        let mut tui = Tui { terminal, model: Model::new(title), open: true };
        tui.draw();
        Ok(tui)
    }

    fn draw(&mut self) {
        let model = &self.model;
        // A terminal that went away ends the lab through SIGHUP, not through a failed drawing.
        let _ = self.terminal.draw(|frame| model.draw(frame));
    }
}

impl View for Tui {
    fn sample(&mut self, sample: &Sample) {
        self.model.add(sample);
        self.draw();
    }

    /// In raw mode Ctrl-C is a key.
    fn quit(&mut self) -> bool {
        while event::poll(Duration::ZERO).unwrap_or(false) {
            match event::read() {
                Ok(Event::Key(key)) => {
                    let interrupt =
                        key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                    if interrupt || key.code == KeyCode::Char('q') {
                        return true;
                    }
                }
                Ok(Event::Resize(..)) => self.draw(),
                Ok(_) => {}
                Err(_) => return true,
            }
        }
        false
    }

    fn close(&mut self) {
        if self.open {
            ratatui::restore();
            self.open = false;
        }
    }
}

impl Drop for Tui {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::load::Interval;
    use crate::lab::observe::{AgentSample, BackendSample};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn screen(model: &Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| model.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    fn sample(packets: u64) -> Sample {
        Sample {
            t_s: 5,
            load: Some(Interval {
                requests: 1990,
                errors: 3,
                latency_us: [("p50".to_owned(), 400.0), ("p99".to_owned(), 2100.0)].into(),
                hit_ratio: Some(0.875),
                ..Interval::default()
            }),
            agents: vec![AgentSample {
                node: "front".into(),
                reachable: true,
                converged: true,
                documents: vec![("balancer".into(), 2, 2, true)],
                proxy_restarts: 0,
            }],
            backends: vec![
                BackendSample {
                    name: "node1".into(),
                    health: "healthy".into(),
                    state: "active".into(),
                    slots: 1.0,
                    packets: packets * 3,
                },
                BackendSample {
                    name: "node2".into(),
                    health: "down".into(),
                    state: "active".into(),
                    slots: 0.0,
                    packets,
                },
            ],
            drops: [("backend_unreachable".to_owned(), 7)].into(),
            proxy_hits: (0, 0),
            events: vec!["front: backend node2 is down".into()],
        }
    }

    #[test]
    fn everything_promised_is_on_the_screen() {
        let mut model = Model::new("sluice lab".into());
        model.add(&sample(0));
        model.add(&sample(100));
        let text = screen(&model, 110, 30);
        for shown in [
            "1990 req/s",
            "p50 0.4 p99 2.1",
            "hits 87.5 %",
            "6 errors",
            "node1 75.0 % (100.0 %, healthy active)",
            "node2 25.0 % (0.0 %, down active)",
            "backend_unreachable 7",
            "balancer 2/2 newest REFUSED",
            "backend node2 is down",
        ] {
            assert!(text.contains(shown), "{shown} is not on\n{text}");
        }
    }

    #[test]
    fn a_small_terminal_is_no_panic() {
        let mut model = Model::new("x".into());
        model.add(&sample(1));
        for (width, height) in [(1, 1), (20, 5), (200, 3)] {
            screen(&model, width, height);
        }
    }
}
