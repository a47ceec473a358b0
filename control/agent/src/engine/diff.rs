//! Differences between two documents, field by field.

use serde_json::Value;
use sluice_api::rest::FieldChange;
use std::collections::BTreeMap;

/// Changes listed; the rest is counted.
pub(crate) const CHANGES_MAX: usize = 1000;

/// Changes from one document to another, as JSON values.
pub(crate) fn diff(from: &Value, to: &Value) -> (Vec<FieldChange>, u64) {
    let mut out = Changes::default();
    out.walk(String::new(), Some(from), Some(to));
    (out.list, out.left_out)
}

#[derive(Default)]
struct Changes {
    list: Vec<FieldChange>,
    left_out: u64,
}

impl Changes {
    fn walk(&mut self, path: String, from: Option<&Value>, to: Option<&Value>) {
        match (from, to) {
            (Some(a), Some(b)) if a == b => {}
            (Some(Value::Object(a)), Some(Value::Object(b))) => {
                let keys = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)));
                for key in keys {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    self.walk(path, a.get(key), b.get(key));
                }
            }
            (Some(Value::Array(a)), Some(Value::Array(b))) => self.lists(&path, a, b),
            _ => self.add(path, from, to),
        }
    }

    /// Lists of named things are compared by name, others by place.
    fn lists(&mut self, path: &str, a: &[Value], b: &[Value]) {
        let named = |list: &[Value]| -> Option<BTreeMap<String, usize>> {
            let names: BTreeMap<_, _> =
                list.iter().enumerate().map(|(i, v)| Some((name_of(v)?, i))).collect::<Option<_>>()?;
            (names.len() == list.len()).then_some(names)
        };
        match (named(a), named(b)) {
            (Some(a_names), Some(b_names)) => {
                for (name, &i) in &a_names {
                    let to = b_names.get(name).map(|&j| &b[j]);
                    self.walk(format!("{path}[{name}]"), Some(&a[i]), to);
                }
                for (name, &j) in b_names.iter().filter(|(name, _)| !a_names.contains_key(*name)) {
                    self.walk(format!("{path}[{name}]"), None, Some(&b[j]));
                }
            }
            _ => {
                for i in 0..a.len().max(b.len()) {
                    self.walk(format!("{path}[{i}]"), a.get(i), b.get(i));
                }
            }
        }
    }

    fn add(&mut self, path: String, from: Option<&Value>, to: Option<&Value>) {
        if self.list.len() >= CHANGES_MAX {
            self.left_out += 1;
            return;
        }
        self.list.push(FieldChange { path, from: from.cloned(), to: to.cloned() });
    }
}

fn name_of(value: &Value) -> Option<String> {
    ["name", "host", "path"].iter().find_map(|key| value.get(key)?.as_str().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn named_entries_are_compared_by_name_wherever_they_stand() {
        let from = json!({"generation": 1, "pools": [{"name": "a", "w": 1}, {"name": "b", "w": 2}], "l": ["x", "y"]});
        let to = json!({"generation": 2, "pools": [{"name": "c"}, {"name": "b", "w": 3}], "l": ["x"]});
        let (changes, left_out) = diff(&from, &to);
        let lines: Vec<String> = changes
            .iter()
            .map(|c| format!("{} {} -> {}", c.path, c.from.is_some(), c.to.as_ref().unwrap_or(&Value::Null)))
            .collect();
        assert_eq!(
            lines,
            [
                "generation true -> 2",
                "l[1] true -> null",
                "pools[a] true -> null",
                "pools[b].w true -> 3",
                "pools[c] false -> {\"name\":\"c\"}",
            ]
        );
        assert_eq!(left_out, 0);
    }

    #[test]
    fn a_long_list_is_cut_and_counted() {
        let many = |n: usize| Value::Array((0..n).map(|i| json!(i)).collect());
        let (changes, left_out) = diff(&json!({"l": many(0)}), &json!({"l": many(1500)}));
        assert_eq!((changes.len(), left_out), (CHANGES_MAX, 500));
    }
}
