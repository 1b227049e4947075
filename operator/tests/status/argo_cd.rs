//! Argo CD's health of a KafkaConsumer, by the script in `examples/argocd`. Argo CD runs it in
//! Lua 5.1 with the object as `obj`.

use mlua::{Lua, Table, Value};
use penstock_crds::spec::KafkaConsumerStatus;
use serde_json::json;

use crate::world::World;

const CONFIG: &str = include_str!("../../../examples/argocd/argocd-cm.yaml");

/// The key in Argo CD's ConfigMap: `resource.customizations.health.GROUP_KIND`.
const KEY: &str = "resource.customizations.health.penstock.dev_KafkaConsumer";

/// Argo CD with the script.
pub struct ArgoCd {
    lua: Lua,
    script: String,
}

/// What Argo CD shows.
#[derive(Debug, PartialEq, Eq)]
pub struct Health {
    pub status: String,
    pub message: String,
}

impl ArgoCd {
    pub fn new() -> Self {
        let config: serde_json::Value = serde_yaml::from_str(CONFIG).expect("it is YAML");
        let script = config["data"][KEY].as_str().expect("the script");
        Self {
            lua: Lua::new(),
            script: script.to_owned(),
        }
    }

    pub fn health(&self, status: &KafkaConsumerStatus, generation: i64) -> Health {
        self.health_of(&json!({
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "KafkaConsumer",
            "metadata": { "name": "orders", "generation": generation },
            "status": status,
        }))
    }

    fn health_of(&self, object: &serde_json::Value) -> Health {
        let object = self.value(object);
        self.lua.globals().set("obj", object).expect("it is set");
        let health: Table = self.lua.load(&self.script).eval().expect("it runs");
        Health {
            status: health.get("status").expect("a status"),
            message: health.get("message").expect("a message"),
        }
    }

    fn value(&self, json: &serde_json::Value) -> Value {
        let text = |text: &str| Value::String(self.lua.create_string(text).expect("text"));
        match json {
            serde_json::Value::Null => Value::Nil,
            serde_json::Value::Bool(bool) => Value::Boolean(*bool),
            serde_json::Value::Number(number) => Value::Number(number.as_f64().expect("a number")),
            serde_json::Value::String(string) => text(string),
            serde_json::Value::Array(items) => {
                let items = items.iter().map(|item| self.value(item));
                Value::Table(self.lua.create_sequence_from(items).expect("a list"))
            }
            serde_json::Value::Object(fields) => {
                let fields = fields
                    .iter()
                    .map(|(name, value)| (text(name), self.value(value)));
                Value::Table(self.lua.create_table_from(fields).expect("a table"))
            }
        }
    }
}

#[test]
fn a_consumer_without_a_status_of_its_manifest_is_progressing() {
    let argo_cd = ArgoCd::new();
    let progressing = |health: Health| {
        assert_eq!(health.status, "Progressing");
        assert!(health.message.contains("has not reported"), "{health:?}");
    };
    let new = json!({ "metadata": { "generation": 1 } });
    progressing(argo_cd.health_of(&new));
    progressing(argo_cd.health(&KafkaConsumerStatus::default(), 1));
    let running = World::running().status();
    progressing(argo_cd.health(&running, 5));
    assert_eq!(argo_cd.health(&running, 4).status, "Healthy");
}

#[test]
fn health_has_the_reason_and_the_message_of_the_condition() {
    let refused = World::refused(penstock_operator::status::Refusal::Invalid);
    let health = ArgoCd::new().health(&refused.status(), 4);
    assert_eq!(health.status, "Degraded");
    assert!(
        health.message.starts_with("Invalid: spec.group"),
        "{health:?}"
    );
}
