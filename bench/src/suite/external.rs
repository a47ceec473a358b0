//! Groups measured by programs of their own, which write rows in the same form.

use super::Context;
use super::row::Row;
use anyhow::{Context as _, Result, bail};
use std::process::Command;

/// Runs `program --json FILE args` and reads its rows.
pub fn run(context: &Context, group: &str, program: &str, args: &[String]) -> Result<Vec<Row>> {
    let path = context.bin(program);
    if !path.exists() {
        context.note(format!("{program} is not built: group {group} is not measured"));
        return Ok(Vec::new());
    }
    let json = context.tmp.path().join(format!("{group}.json"));
    let mut command = Command::new(&path);
    command.arg("--json").arg(&json).args(args);
    let status = command.status().with_context(|| format!("run {program}"))?;
    if !status.success() {
        bail!("{program}: {status}");
    }
    // It says itself why it skips.
    let Ok(text) = std::fs::read_to_string(&json) else {
        context.note(format!("{program} measured nothing here"));
        return Ok(Vec::new());
    };
    serde_json::from_str(&text).with_context(|| format!("the rows of {program}"))
}
