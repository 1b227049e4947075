//! Server-side apply by one manager: the fields that it owns, and how they are
//! merged. Enough of the rules for the objects that the operator makes.

use serde_json::{Map, Value, json};

/// The fields by which the items of a list are told apart; none for a list that
/// has one owner.
fn keys(list: &str, items: &[Value]) -> &'static [&'static str] {
    match list {
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" => &["name"],
        "volumeMounts" => &["mountPath"],
        "ownerReferences" => &["uid"],
        "ports" if items.iter().any(|item| item.get("containerPort").is_some()) => {
            &["containerPort", "protocol"]
        }
        "ports" => &["port", "protocol"],
        _ => &[],
    }
}

/// Maps that have one owner.
const ATOMIC: [&str; 2] = ["selector", "nodeSelector"];

/// What names an object is nobody's.
const IDENTITY: [&str; 2] = ["name", "namespace"];

fn member(keys: &[&str], item: &Value) -> String {
    let names: Map<String, Value> = keys
        .iter()
        .map(|key| ((*key).to_owned(), item[*key].clone()))
        .collect();
    format!("k:{}", Value::Object(names))
}

/// The set of fields of an object that was applied.
pub fn set_of(object: &Value) -> Value {
    let mut object = object.clone();
    let fields = object.as_object_mut().expect("an object");
    fields.retain(|name, _| name != "apiVersion" && name != "kind");
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| !IDENTITY.contains(&name.as_str()));
    }
    set("", &object)
}

fn set(name: &str, value: &Value) -> Value {
    match value {
        Value::Object(_) if ATOMIC.contains(&name) => json!({}),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (format!("f:{name}"), set(name, value)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) if !keys(name, items).is_empty() => items
            .iter()
            .map(|item| {
                let mut fields = set("", item);
                fields["."] = json!({});
                (member(keys(name, items), item), fields)
            })
            .collect::<Map<_, _>>()
            .into(),
        _ => json!({}),
    }
}

/// Removes what was applied before and is not any more.
pub fn drop_gone(name: &str, value: &mut Value, before: &Value, after: &Value) {
    let no_members = Map::new();
    let before = before.as_object().unwrap_or(&no_members);
    let stays = |member: &str| after.get(member);
    match value {
        Value::Object(fields) => {
            for (member, set) in before {
                let Some(field) = member.strip_prefix("f:") else {
                    continue;
                };
                match (stays(member), fields.get_mut(field)) {
                    (Some(after), Some(value)) => drop_gone(field, value, set, after),
                    (None, _) => drop(fields.remove(field)),
                    (Some(_), None) => {}
                }
            }
        }
        Value::Array(items) => {
            let keys = keys(name, items);
            items.retain(|item| {
                let member = member(keys, item);
                !before.contains_key(&member) || stays(&member).is_some()
            });
            for item in items {
                let member = member(keys, item);
                if let (Some(set), Some(after)) = (before.get(&member), stays(&member)) {
                    drop_gone("", item, set, after);
                }
            }
        }
        _ => {}
    }
}

/// Puts what is applied into the object.
pub fn merge(name: &str, into: &mut Value, applied: &Value) {
    match (into, applied) {
        (Value::Object(into), Value::Object(applied)) if !ATOMIC.contains(&name) => {
            for (name, value) in applied {
                merge(name, into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(applied)) if !keys(name, applied).is_empty() => {
            let keys = keys(name, applied);
            for item in applied {
                let same = |other: &&mut Value| member(keys, other) == member(keys, item);
                match into.iter_mut().find(same) {
                    Some(other) => merge("", other, item),
                    None => into.push(item.clone()),
                }
            }
        }
        (into, applied) => *into = applied.clone(),
    }
}

/// A JSON merge patch (RFC 7396).
pub fn merge_patch(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let fields = into.as_object_mut().expect("just made");
    for (name, value) in patch {
        match value {
            Value::Null => drop(fields.remove(name)),
            value => merge_patch(fields.entry(name.clone()).or_insert(Value::Null), value),
        }
    }
}
