//! `apply`, `diff`, `delete`.

use super::source::{Source, read_all};
use super::{print_json, segment};
use crate::args::{ApplyArgs, DeleteArgs, FileArgs, Global};
use crate::client::{AgentClient, ClientError, InWords};
use crate::exit::{self, CommandError, CommandResult};
use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sluice_api::rest::{Applied, Change, Diff, FieldChange};
use sluice_api::status::NodeStatus;
use std::time::{Duration, Instant};

/// Between two looks at the status.
const WAIT_POLL: Duration = Duration::from_millis(50);

/// Runs `sluice apply`.
pub async fn apply(args: &ApplyArgs, global: &Global) -> CommandResult {
    let client = AgentClient::new(&global.socket);
    let documents = read_all(&args.files.files)?;
    let mut answers = Vec::new();
    for document in &documents {
        let path = format!("/v1/documents/{}{}", segment(&document.name), dry_run(args.dry_run));
        let answer: Applied = send(&client, Method::PUT, &path, document).await?;
        if !global.json() {
            println!("{}", in_words(&answer));
        }
        answers.push(answer);
    }
    if global.json() {
        print_json(&answers)?;
    }
    if args.wait && !args.dry_run {
        wait(&client, &answers, Duration::from_secs(args.timeout)).await?;
        if !global.json() {
            println!("carried out");
        }
    }
    Ok(exit::OK)
}

/// Runs `sluice diff`.
pub async fn diff(args: &FileArgs, global: &Global) -> CommandResult {
    let client = AgentClient::new(&global.socket);
    let mut answers = Vec::new();
    for document in &read_all(&args.files)? {
        let answer: Diff = send(&client, Method::POST, "/v1/diff", document).await?;
        if !global.json() {
            print_diff(&answer);
        }
        answers.push(answer);
    }
    if global.json() {
        print_json(&answers)?;
    }
    Ok(exit::OK)
}

/// Runs `sluice delete`.
pub async fn delete(args: &DeleteArgs, global: &Global) -> CommandResult {
    let client = AgentClient::new(&global.socket);
    let path = format!("/v1/documents/{}{}", segment(&args.name), dry_run(args.dry_run));
    let answer: Applied = decode(&path, client.send(Method::DELETE, &path, None).await?)?;
    if global.json() {
        print_json(&answer)?;
    } else {
        println!("{}", in_words(&answer));
    }
    Ok(exit::OK)
}

fn dry_run(on: bool) -> &'static str {
    if on { "?dry_run=true" } else { "" }
}

fn decode<T: DeserializeOwned>(what: &str, value: Value) -> Result<T, ClientError> {
    serde_json::from_value(value)
        .map_err(|e| ClientError::Shape { what: what.to_owned(), message: e.to_string() })
}

async fn send<T: DeserializeOwned>(
    client: &AgentClient,
    method: Method,
    path: &str,
    document: &Source,
) -> Result<T, CommandError> {
    let answer = client.send(method, path, Some(&document.content)).await.map_err(|error| match error {
        // Say which file it was: several may have been given.
        ClientError::Refused(problem) if problem.status < 500 => {
            CommandError::Invalid(format!("{}: {}", document.from, InWords(&problem)))
        }
        other => other.into(),
    })?;
    Ok(decode(path, answer)?)
}

fn change(change: Change) -> &'static str {
    match change {
        Change::Created => "created",
        Change::Replaced => "replaced",
        Change::Unchanged => "unchanged",
        Change::Deleted => "deleted",
    }
}

fn in_words(answer: &Applied) -> String {
    let dry = if answer.dry_run { " (dry run: nothing was written)" } else { "" };
    let mut text = format!("{} generation {} {}{dry}", answer.name, answer.generation, change(answer.change));
    for step in &answer.steps {
        text.push_str(&format!("\n  {step}"));
    }
    text
}

fn print_diff(diff: &Diff) {
    let now = diff.generation_now.map_or("none".to_owned(), |g| g.to_string());
    println!("{} generation {now} -> {}: {}", diff.name, diff.generation_new, change(diff.change));
    for field in &diff.fields {
        println!("{}", field_in_words(field));
    }
    if diff.fields_left_out > 0 {
        println!("  and {} more fields", diff.fields_left_out);
    }
    if !diff.steps.is_empty() {
        println!("steps on this node:");
        for step in &diff.steps {
            println!("  {step}");
        }
    }
}

fn field_in_words(field: &FieldChange) -> String {
    match (&field.from, &field.to) {
        (Some(from), Some(to)) => format!("~ {}: {from} -> {to}", field.path),
        (None, Some(to)) => format!("+ {}: {to}", field.path),
        (Some(from), None) => format!("- {}: {from}", field.path),
        (None, None) => format!("  {}", field.path),
    }
}

/// Waits until every document applied is carried out, in that generation or a newer one.
async fn wait(client: &AgentClient, applied: &[Applied], timeout: Duration) -> Result<(), CommandError> {
    let end = Instant::now() + timeout;
    loop {
        let status: NodeStatus = client.get("/v1/status").await?;
        let done = |a: &Applied| {
            status.documents.iter().any(|d| d.name == a.name && d.observed_generation >= a.generation)
        };
        if status.converged && applied.iter().all(done) {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(CommandError::NotConverged(unfinished(&status, timeout)));
        }
        tokio::time::sleep(WAIT_POLL).await;
    }
}

fn unfinished(status: &NodeStatus, timeout: Duration) -> String {
    let mut text =
        format!("{} has not carried the documents out within {} s", status.node, timeout.as_secs());
    for d in status.documents.iter().filter(|d| d.observed_generation != d.generation) {
        text.push_str(&format!(
            "\n  document {}: at generation {} of {}",
            d.name, d.observed_generation, d.generation
        ));
    }
    for e in &status.errors {
        text.push_str(&format!("\n  {}: {}", e.item, e.message));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_field_shows_both_values() {
        let field = |from: Option<u32>, to: Option<u32>| {
            field_in_words(&FieldChange {
                path: "pools[web].backends[n1].weight".into(),
                from: from.map(Into::into),
                to: to.map(Into::into),
            })
        };
        assert_eq!(field(Some(100), Some(50)), "~ pools[web].backends[n1].weight: 100 -> 50");
        assert_eq!(field(None, Some(50)), "+ pools[web].backends[n1].weight: 50");
        assert_eq!(field(Some(1), None), "- pools[web].backends[n1].weight: 1");
    }
}
