//! What a run tells about itself before it begins.

use penstock_crds::validate::{Address, ConsumeMode};

use super::broker::dead_letter_topic;
use super::child::shown;
use super::pages::{Pages, reachable};
use super::plan::{Plan, list};
use crate::args::DevArguments;
use crate::console::Console;
use crate::input;

/// Lines with a title each.
#[derive(Default)]
pub struct Introduction {
    lines: Vec<(&'static str, String)>,
}

impl Introduction {
    /// The brokers of the arguments, before they replace the manifest's.
    pub fn given_brokers(&mut self, plan: &Plan, servers: &str) {
        let manifests = &plan.consumer.kafka.bootstrap_servers;
        self.add(
            "broker",
            format!("{servers}, instead of the manifest's {manifests}"),
        );
        self.add(
            "group",
            format!(
                "{} of these brokers; this run commits its offsets, and shares the partitions with its other members",
                plan.consumer.group
            ),
        );
    }

    /// The broker in this process, once it has replaced the manifest's.
    pub fn own_broker(&mut self, plan: &Plan, partitions: u16, unused_security: bool) {
        let mut topics = list(&plan.consumer.topics);
        if let Some(topic) = dead_letter_topic(&plan.consumer) {
            topics = format!("{topics}, {topic}");
        }
        let security = match unused_security {
            true => ", without the manifest's TLS and authentication",
            false => "",
        };
        let s = plural(partitions.into());
        self.add(
            "broker",
            format!(
                "in this process at {}{security}; topics, with {partitions} partition{s} each: {topics}",
                plan.consumer.kafka.bootstrap_servers
            ),
        );
    }

    /// Everything else.
    pub fn rest(&mut self, arguments: &DevArguments, plan: &Plan, pages: Pages, topic: &str) {
        let mode = match plan.consumer.mode {
            ConsumeMode::InOrder => "InOrder".to_owned(),
            ConsumeMode::KeyOrdered { handlers, .. } => with_handlers("KeyOrdered", handlers.get()),
            ConsumeMode::Fast { handlers, .. } => with_handlers("Fast", handlers.get()),
        };
        let name = plan.resource.metadata.name.as_deref().unwrap_or_default();
        let consumer = format!(
            "{name} of {}, group {}, {mode}",
            plan.file, plan.consumer.group
        );
        self.lines.insert(0, ("consumer", consumer));
        self.add("handler", handler(arguments, plan));
        self.add(
            "metrics",
            format!("http://{}/metrics", reachable(pages.metrics)),
        );
        self.add(
            "health",
            format!("http://{}/health", reachable(pages.health)),
        );
        match &arguments.produce {
            Some(path) => {
                let file = input::name(path);
                self.add("produce", format!("the lines of {file} to topic {topic}"));
            }
            None if arguments.brokers.is_none() => {
                let broker = &plan.consumer.kafka.bootstrap_servers;
                self.add(
                    "produce",
                    format!(
                        "nothing; give a file of messages with --produce, or use any Kafka producer, such as: kcat -P -b {broker} -t {topic}"
                    ),
                );
            }
            None => {}
        }
    }

    /// Shows the lines, their texts in one column.
    pub fn show(&self, console: &Console) {
        for (title, text) in &self.lines {
            console.say(format_args!("{title:<9} {text}"));
        }
    }

    fn add(&mut self, title: &'static str, text: String) {
        self.lines.push((title, text));
    }
}

fn with_handlers(mode: &str, handlers: usize) -> String {
    format!("{mode} with {handlers} handler{}", plural(handlers))
}

fn plural(number: usize) -> &'static str {
    if number == 1 { "" } else { "s" }
}

fn handler(arguments: &DevArguments, plan: &Plan) -> String {
    let command = match arguments.command.as_slice() {
        [] => "runs already".to_owned(),
        command => shown(command),
    };
    match plan.consumer.endpoint.address() {
        Some(Address::Port(port)) => format!("{command}, at port {port}"),
        Some(Address::Socket(path)) => format!("{command}, at socket {}", path.display()),
        None => format!("{command}, embedded in the consumer"),
    }
}
