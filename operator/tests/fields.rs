//! For any object that somebody applied, `owned` gives back exactly what was
//! applied, whatever others add, until somebody changes it.

use penstock_operator::existing::fields::owned;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const MANAGER: &str = "penstock-operator";

/// What a value is to server-side apply, with the value.
#[derive(Clone, Debug)]
enum Node {
    /// Anything that has one owner: a number, a text, an atomic list or map.
    Atom(Value),
    /// Each field has its own owner.
    Fields(Vec<(String, Node)>),
    /// A list whose items are told apart by their field `name`.
    Keyed(Vec<(String, Vec<(String, Node)>)>),
    /// A list of texts or numbers without order.
    Set(Vec<Value>),
}

impl Node {
    fn value(&self) -> Value {
        match self {
            Self::Atom(value) => value.clone(),
            Self::Fields(fields) => Value::Object(fields_value(fields)),
            Self::Keyed(items) => items
                .iter()
                .map(|(key, fields)| {
                    let mut item = fields_value(fields);
                    item.insert("name".into(), key.as_str().into());
                    Value::Object(item)
                })
                .collect(),
            Self::Set(items) => Value::Array(items.clone()),
        }
    }

    /// The set of fields that covers the value, in the FieldsV1 format.
    fn set(&self) -> Value {
        match self {
            Self::Atom(_) => json!({}),
            Self::Fields(fields) => Value::Object(fields_set(fields)),
            Self::Keyed(items) => items
                .iter()
                .map(|(key, fields)| {
                    let mut set = fields_set(fields);
                    set.insert(".".into(), json!({}));
                    set.insert("f:name".into(), json!({}));
                    (format!("k:{}", json!({ "name": key })), Value::Object(set))
                })
                .collect::<Map<_, _>>()
                .into(),
            Self::Set(items) => items
                .iter()
                .map(|item| (format!("v:{item}"), json!({})))
                .collect::<Map<_, _>>()
                .into(),
        }
    }

    /// As another manager would add to it, and the API server's defaults do.
    fn with_additions(&self) -> Value {
        let foreign = |mut fields: Map<String, Value>| {
            fields.insert("foreign".into(), json!({ "a": 1 }));
            fields
        };
        match self {
            Self::Atom(value) => value.clone(),
            Self::Fields(fields) if fields.is_empty() => json!({}),
            Self::Fields(fields) => Value::Object(foreign(fields_added(fields))),
            Self::Keyed(items) if items.is_empty() => json!([]),
            Self::Keyed(items) => {
                let ours = items.iter().map(|(key, fields)| {
                    let mut item = foreign(fields_added(fields));
                    item.insert("name".into(), key.as_str().into());
                    Value::Object(item)
                });
                let injected = json!({ "name": "~injected", "image": "x" });
                std::iter::once(injected).chain(ours).collect()
            }
            Self::Set(items) if items.is_empty() => json!([]),
            Self::Set(items) => {
                let injected = std::iter::once(json!("~injected"));
                injected.chain(items.iter().cloned()).collect()
            }
        }
    }

    /// Paths of everything that has one owner, for `Value::pointer`.
    fn atoms(&self, path: &str, paths: &mut Vec<String>) {
        match self {
            Self::Atom(_) => paths.push(path.to_owned()),
            Self::Fields(fields) => fields
                .iter()
                .for_each(|(name, node)| node.atoms(&format!("{path}/{name}"), paths)),
            Self::Keyed(items) => items.iter().enumerate().for_each(|(at, (_, fields))| {
                fields.iter().for_each(|(name, node)| {
                    node.atoms(&format!("{path}/{}/{name}", at), paths);
                });
            }),
            Self::Set(items) => {
                paths.extend((0..items.len()).map(|at| format!("{path}/{}", at)));
            }
        }
    }
}

fn fields_value(fields: &[(String, Node)]) -> Map<String, Value> {
    let values = fields.iter();
    values
        .map(|(name, node)| (name.clone(), node.value()))
        .collect()
}

fn fields_set(fields: &[(String, Node)]) -> Map<String, Value> {
    let sets = fields.iter();
    sets.map(|(name, node)| (format!("f:{name}"), node.set()))
        .collect()
}

fn fields_added(fields: &[(String, Node)]) -> Map<String, Value> {
    let values = fields.iter();
    values
        .map(|(name, node)| (name.clone(), node.with_additions()))
        .collect()
}

/// Names with what may stand in labels and ConfigMaps, and a colon, which the format
/// itself uses. Without `n`, so that none is `name`, and without `/` and `~`, which
/// mean something in a pointer.
fn field() -> impl Strategy<Value = String> {
    "[a-mo-z][a-zA-Z0-9.:-]{0,8}"
}

/// Neither empty lists nor empty maps: who applies one owns the field itself.
fn atom() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(json!({})),
        Just(json!([])),
        prop::collection::vec("[a-c]{1,2}".prop_map(Value::from), 1..4).prop_map(Value::from),
        prop::collection::btree_map(field(), "[a-c]{0,2}", 1..3).prop_map(|map| json!(map)),
    ]
}

fn distinct<T>(nodes: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<(String, T)>>
where
    T: std::fmt::Debug,
{
    prop::collection::vec((field(), nodes), 1..4).prop_map(|pairs| {
        let mut names = std::collections::HashSet::new();
        pairs
            .into_iter()
            .filter(|(name, _)| names.insert(name.clone()))
            .collect()
    })
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        4 => atom().prop_map(Node::Atom),
        1 => prop::collection::btree_set("[a-z\"{}:.]{0,4}", 1..4)
            .prop_map(|items| Node::Set(items.into_iter().map(Value::from).collect())),
        1 => prop::collection::btree_set(0..99_i32, 1..4)
            .prop_map(|items| Node::Set(items.into_iter().map(Value::from).collect())),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            distinct(inner.clone()).prop_map(Node::Fields),
            distinct(distinct(inner)).prop_map(Node::Keyed),
        ]
    })
}

/// An object with this `spec`, whose fields belong to its manager by `set`.
fn object(manager: &str, spec: &Value, set: &Value) -> Value {
    let fields = json!({
        "f:metadata": { "f:labels": { "f:app": {} } },
        "f:spec": set,
    });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "orders",
            "namespace": "shop",
            "uid": "1",
            "labels": { "app": "orders", "foreign": "1" },
            "managedFields": [
                {
                    "manager": "kubectl-edit",
                    "operation": "Update",
                    "fieldsV1": { "f:metadata": { "f:labels": { "f:foreign": {} } } },
                },
                {
                    "manager": manager,
                    "operation": "Apply",
                    "subresource": "status",
                    "fieldsV1": { "f:status": {} },
                },
                { "manager": manager, "operation": "Apply", "fieldsV1": fields },
            ],
        },
        "spec": spec,
        "status": { "replicas": 1 },
    })
}

fn applied(spec: &Value) -> Value {
    json!({ "metadata": { "labels": { "app": "orders" } }, "spec": spec })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_was_applied_is_given_back(spec in node()) {
        let object = object(MANAGER, &spec.value(), &spec.set());
        prop_assert_eq!(owned(&object, MANAGER), applied(&spec.value()));
    }

    #[test]
    fn additions_of_others_change_nothing(spec in node()) {
        let object = object(MANAGER, &spec.with_additions(), &spec.set());
        prop_assert_eq!(owned(&object, MANAGER), applied(&spec.value()));
    }

    #[test]
    fn a_change_of_what_was_applied_shows(spec in node(), which in any::<prop::sample::Index>()) {
        let mut paths = Vec::new();
        spec.atoms("", &mut paths);
        let mut changed = spec.value();
        let path = which.get(&paths);
        *changed.pointer_mut(path).unwrap() = json!("~changed");
        let object = object(MANAGER, &changed, &spec.set());
        prop_assert_ne!(owned(&object, MANAGER), applied(&spec.value()), "{}", path);
    }

    #[test]
    fn a_value_that_somebody_else_took_over_shows(spec in distinct(node())) {
        let (_, kept) = spec.split_first().unwrap();
        let set = Value::Object(fields_set(kept));
        prop_assume!(!kept.is_empty());
        let spec = Value::Object(fields_value(&spec));
        let object = object(MANAGER, &spec, &set);
        prop_assert_ne!(owned(&object, MANAGER), applied(&spec));
    }

    #[test]
    fn another_manager_owns_nothing(spec in node()) {
        let object = object("somebody", &spec.value(), &spec.set());
        prop_assert_eq!(owned(&object, MANAGER), Value::Null);
    }
}
