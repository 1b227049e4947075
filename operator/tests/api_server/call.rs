//! A call as the server understands it.

use std::collections::BTreeMap;
use std::fmt;

use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::time::Instant;

/// A call of a client.
#[derive(Clone, Debug)]
pub struct Call {
    pub verb: &'static str,
    /// Such as `deployments` or `kafkaconsumers/status`.
    pub resource: String,
    pub namespace: String,
    /// Empty for a list.
    pub name: String,
    pub body: Value,
    /// Whether only metadata was asked for.
    pub metadata: bool,
    pub at: Instant,
    /// Which of several clients.
    pub caller: String,
    pub query: BTreeMap<String, String>,
    /// Whether it is a merge patch.
    pub merges: bool,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.verb, self.resource, self.name)
    }
}

impl Call {
    /// Reads a request.
    pub async fn read(caller: String, request: Request<kube::client::Body>) -> Call {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let header = |name| {
            let value: Option<&http::HeaderValue> = parts.headers.get(name);
            value
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| {
                (
                    name.to_owned(),
                    value.replace("%2F", "/").replace("%3D", "="),
                )
            })
            .collect();
        let mut path = parts.uri.path().trim_matches('/').split('/');
        // `api/VERSION/…` or `apis/GROUP/VERSION/…`
        if path.next() == Some("apis") {
            path.next();
        }
        let mut path = path.skip(1).peekable();
        let mut namespace = String::new();
        if path.peek() == Some(&"namespaces") {
            namespace = path.nth(1).unwrap_or_default().to_owned();
        }
        let mut resource = path.next().unwrap_or_default().to_owned();
        let name = path.next().unwrap_or_default().to_owned();
        if let Some(subresource) = path.next() {
            resource = format!("{resource}/{subresource}");
        }
        Call {
            verb: match parts.method {
                Method::GET if query.contains_key("watch") => "watch",
                Method::GET if name.is_empty() => "list",
                Method::GET => "get",
                Method::POST => "create",
                Method::PUT => "update",
                Method::PATCH => "patch",
                Method::DELETE => "delete",
                method => panic!("nobody serves {method}"),
            },
            metadata: header("accept").contains("as=PartialObjectMetadata"),
            merges: header("content-type") == "application/merge-patch+json",
            body: serde_json::from_slice(&body).unwrap_or_default(),
            at: Instant::now(),
            caller,
            resource,
            namespace,
            name,
            query,
        }
    }

    /// Whether a list or watch covers an object.
    pub fn concerns(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let here = self.namespace.is_empty() || metadata["namespace"] == self.namespace.as_str();
        here && self.query.get("labelSelector").is_none_or(|selector| {
            let (label, value) = selector.split_once('=').expect("one equality");
            metadata["labels"][label] == value
        })
    }

    /// An object as it is shown to the caller.
    pub fn shown(&self, object: Value) -> Value {
        match self.metadata {
            true => json!({
                "apiVersion": "meta.k8s.io/v1",
                "kind": "PartialObjectMetadata",
                "metadata": object["metadata"],
            }),
            false => object,
        }
    }
}
