//! Extracts the fields that Penstock applied from an object.
//!
//! `managedFields` lists in the FieldsV1 format (KEP-555, server-side apply) which fields each
//! manager applied. `f:NAME` is a field. `k:{…}` is the item of a list with these keys, and `v:…`
//! the item of a set with this value. `.` is the item or field itself. An empty set stands for the
//! whole value.

use serde_json::{Map, Value};

/// Returns the fields of an object that `manager` applied, without the object's identity. Returns
/// null if there are none.
pub fn owned(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array();
    let set = entries.into_iter().flatten().find(|entry| {
        entry["manager"] == manager
            && entry["operation"] == "Apply"
            && entry["subresource"].as_str().unwrap_or_default().is_empty()
    });
    match set.and_then(|entry| entry.get("fieldsV1")) {
        Some(set) => without_identity(&cut(object, set)),
        None => Value::Null,
    }
}

/// Returns an object without its kind, version, name and namespace, which `managedFields` omits.
pub fn without_identity(object: &Value) -> Value {
    let mut object = object.clone();
    if let Value::Object(fields) = &mut object {
        fields.remove("apiVersion");
        fields.remove("kind");
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            metadata.remove("name");
            metadata.remove("namespace");
        }
    }
    object
}

/// Returns the part of a value that a set of fields covers.
fn cut(value: &Value, set: &Value) -> Value {
    let members = match set.as_object() {
        Some(members) if members.keys().any(|key| key != ".") => members,
        _ => return value.clone(),
    };
    match value {
        Value::Object(fields) => Value::Object(cut_fields(fields, members)),
        Value::Array(items) => Value::Array(cut_items(items, members)),
        other => other.clone(),
    }
}

fn cut_fields(fields: &Map<String, Value>, members: &Map<String, Value>) -> Map<String, Value> {
    members
        .iter()
        .filter_map(|(member, set)| {
            let name = member.strip_prefix("f:")?;
            let value = fields.get(name)?;
            Some((name.to_owned(), cut(value, set)))
        })
        .collect()
}

/// Returns the items that the set covers, in the order of the list.
fn cut_items(items: &[Value], members: &Map<String, Value>) -> Vec<Value> {
    let members: Vec<(Member, &Value)> = members
        .iter()
        .filter_map(|(member, set)| Some((Member::parse(member)?, set)))
        .collect();
    items
        .iter()
        .enumerate()
        .filter_map(|(index, item)| {
            let (_, set) = members.iter().find(|(member, _)| member.is(index, item))?;
            Some(cut(item, set))
        })
        .collect()
}

/// The way in which a set of fields identifies an item of a list.
enum Member {
    /// By some of its fields.
    Keys(Map<String, Value>),
    /// By its value.
    Value(Value),
    /// By its index.
    Index(usize),
}

impl Member {
    fn parse(member: &str) -> Option<Self> {
        let (kind, text) = member.split_once(':')?;
        match kind {
            "k" => serde_json::from_str(text).ok().map(Self::Keys),
            "v" => serde_json::from_str(text).ok().map(Self::Value),
            "i" => text.parse().ok().map(Self::Index),
            _ => None,
        }
    }

    fn is(&self, index: usize, item: &Value) -> bool {
        match self {
            Self::Keys(keys) => keys
                .iter()
                .all(|(name, value)| item.get(name) == Some(value)),
            Self::Value(value) => item == value,
            Self::Index(place) => *place == index,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment() -> Value {
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": "orders",
                "namespace": "shop",
                "uid": "1",
                "labels": { "ours": "1", "theirs": "2" },
                "managedFields": [
                    {
                        "manager": "kubectl-edit",
                        "operation": "Update",
                        "fieldsV1": { "f:metadata": { "f:labels": { "f:theirs": {} } } },
                    },
                    {
                        "manager": "penstock-operator",
                        "operation": "Apply",
                        "fieldsV1": {
                            "f:metadata": { "f:labels": { "f:ours": {} } },
                            "f:spec": {
                                "f:replicas": {},
                                "f:selector": {},
                                "f:template": { "f:spec": { "f:containers": {
                                    "k:{\"name\":\"runtime\"}": {
                                        ".": {},
                                        "f:name": {},
                                        "f:args": {},
                                        "f:ports": { "k:{\"containerPort\":6060,\"protocol\":\"TCP\"}": {
                                            ".": {}, "f:containerPort": {}, "f:protocol": {},
                                        } },
                                    },
                                } } },
                            },
                        },
                    },
                ],
            },
            "spec": {
                "replicas": 2,
                "revisionHistoryLimit": 10,
                "selector": { "matchLabels": { "a": "b" } },
                "template": { "spec": {
                    "restartPolicy": "Always",
                    "containers": [
                        { "name": "injected", "image": "x" },
                        {
                            "name": "runtime",
                            "args": ["a", "b"],
                            "terminationMessagePath": "/dev/termination-log",
                            "ports": [
                                { "containerPort": 9, "protocol": "TCP" },
                                { "containerPort": 6060, "protocol": "TCP", "hostPort": 0 },
                            ],
                        },
                    ],
                } },
            },
            "status": { "replicas": 2 },
        })
    }

    #[test]
    fn exactly_the_fields_that_were_applied_are_cut_out() {
        let expected = json!({
            "metadata": { "labels": { "ours": "1" } },
            "spec": {
                "replicas": 2,
                "selector": { "matchLabels": { "a": "b" } },
                "template": { "spec": { "containers": [{
                    "name": "runtime",
                    "args": ["a", "b"],
                    "ports": [{ "containerPort": 6060, "protocol": "TCP" }],
                }] } },
            },
        });
        assert_eq!(owned(&deployment(), "penstock-operator"), expected);
    }

    #[test]
    fn another_manager_or_none_owns_nothing_of_it() {
        assert_eq!(owned(&deployment(), "somebody"), Value::Null);
        let mut bare = deployment();
        bare["metadata"]["managedFields"].take();
        assert_eq!(owned(&bare, "penstock-operator"), Value::Null);
    }

    #[test]
    fn items_of_a_set_and_of_an_indexed_list_are_found() {
        let set = json!({ "v:\"b\"": {}, "v:3": {} });
        assert_eq!(cut(&json!(["a", "b", 3]), &set), json!(["b", 3]));
        let places = json!({ "i:1": {} });
        assert_eq!(cut(&json!(["a", "b"]), &places), json!(["b"]));
    }
}
