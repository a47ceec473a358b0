//! Side-by-side measurements behind `make bench`.
//!
//! Every figure is taken beside its base in the same run: subjects take turns, round after round, and the
//! medians are compared. A group writes `GROUP.txt` (table) and `GROUP.svg` (picture); all rows together
//! are `results.json`, the machine is `machine.json`. What cannot be measured is said in a note and has no
//! row.

pub mod config;
pub mod control;
pub mod domains;
pub mod external;
pub mod l4_change;
pub mod load;
pub mod machine;
pub mod plan;
pub mod process;
pub mod proxy;
pub mod row;
pub mod subject;
pub mod svg;

use anyhow::{Context as _, Result};
use row::Row;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What every group needs.
#[derive(Debug)]
pub struct Context {
    /// Where results go.
    pub out: PathBuf,
    /// Where our own programs are.
    pub bin_dir: PathBuf,
    /// Configurations, logs and caches of this run; in memory where the system has `/dev/shm`.
    pub tmp: tempfile::TempDir,
    /// Rounds of each case.
    pub rounds: usize,
    /// Length of one turn, s.
    pub seconds: f64,
    /// Smoke run: every step once and short.
    pub quick: bool,
    /// CPU of the program under measurement.
    pub subject_cpu: usize,
    /// CPU of the load generator and the origin.
    pub load_cpu: usize,
    /// Set by Ctrl-C.
    pub stop: Arc<AtomicBool>,
    notes: RefCell<Vec<String>>,
}

impl Context {
    /// For a run into `out`.
    pub fn new(out: &Path, bin_dir: &Path, rounds: usize, seconds: f64, quick: bool) -> Result<Self> {
        std::fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
        let shm = Path::new("/dev/shm");
        let builder = tempfile::Builder::new().prefix("sluice-bench-").to_owned();
        let tmp = if shm.is_dir() { builder.tempdir_in(shm) } else { builder.tempdir() };
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            out: out.to_owned(),
            bin_dir: bin_dir.to_owned(),
            tmp: tmp.context("make a directory for the run")?,
            rounds,
            seconds,
            quick,
            subject_cpu: 0,
            load_cpu: usize::from(cpus > 1),
            stop: crate::poll::stop_flag()?,
            notes: RefCell::default(),
        })
    }

    /// One of our own programs.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// Says what a reader has to know, now and in the table.
    pub fn note(&self, note: impl Into<String>) {
        let note = note.into();
        println!("  note: {note}");
        self.notes.borrow_mut().push(note);
    }

    /// Fails once Ctrl-C was pressed, so that programs are ended and files removed on the way out.
    pub fn check_stop(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            anyhow::bail!("interrupted")
        }
        Ok(())
    }

    /// Writes a group's table and picture and clears its notes.
    pub fn write_group(&self, group: &str, rows: &[Row], machine: &str) -> Result<()> {
        let notes = std::mem::take(&mut *self.notes.borrow_mut());
        let table = row::table(group, rows, &notes);
        println!("\n{table}");
        let write = |extension: &str, text: &str| {
            let path = self.out.join(format!("{group}.{extension}"));
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
        };
        write("txt", &table)?;
        if !rows.is_empty() {
            write("svg", &svg::picture(group, rows, machine))?;
        }
        Ok(())
    }
}
