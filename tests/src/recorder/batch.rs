//! Several messages in one request: CloudEvents in batched mode, and verdicts on each.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::Verdict;
use super::http::{End, Request};
use super::produce;
use super::reply::{Action, Reply};

const CONTENT_TYPE: &str = "application/cloudevents-batch+json";

/// Whether a request brings a batch.
pub(super) fn is_batch(request: &Request) -> bool {
    let content_type = request.headers.get("content-type");
    content_type.is_some_and(|found| found.split(';').next() == Some(CONTENT_TYPE))
}

/// For each event the request that would have brought it alone, in binary mode.
pub(super) fn split(request: &Request) -> Result<Vec<Request>, End> {
    let events: Vec<Map<String, Value>> = serde_json::from_slice(&request.body)
        .map_err(|error| End::Malformed(format!("no batch: {error}")))?;
    match events.is_empty() {
        true => Err(End::Malformed("a batch without events".into())),
        false => events
            .into_iter()
            .map(|event| one(request, event))
            .collect(),
    }
}

fn one(batch: &Request, mut event: Map<String, Value>) -> Result<Request, End> {
    let mut request = Request {
        method: batch.method.clone(),
        path: batch.path.clone(),
        headers: batch.headers.clone(),
        body: body(&mut event)?,
    };
    for (name, value) in event {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        match name.as_str() {
            "datacontenttype" => {
                request.headers.insert("content-type".into(), text);
            }
            "kafkaheaders" => {
                for header in text.split('&') {
                    let (name, value) = header.split_once('=').unwrap_or((header, ""));
                    let name = format!("kafka-header-{}", name.to_lowercase());
                    request.headers.insert(name, value.to_owned());
                }
            }
            // In headers a percent sign stands for more than itself.
            _ => {
                let text = text.replace('%', "%25");
                request.headers.insert(format!("ce-{name}"), text);
            }
        }
    }
    Ok(request)
}

/// The value: JSON as it is written anew, or bytes.
fn body(event: &mut Map<String, Value>) -> Result<Vec<u8>, End> {
    match (event.remove("data"), event.remove("data_base64")) {
        (Some(data), None) => Ok(data.to_string().into_bytes()),
        (None, Some(data)) => STANDARD
            .decode(data.as_str().unwrap_or_default())
            .map_err(|error| End::Malformed(format!("data_base64 {data}: {error}"))),
        (None, None) => Ok(Vec::new()),
        (Some(_), Some(_)) => Err(End::Malformed("an event with data twice".into())),
    }
}

/// What is answered to a batch, and what that is for each of its messages. A reply that
/// is for all, or no answer, holds for the whole request.
pub(super) fn outcome(replies: &[Reply]) -> (Action, Vec<Verdict>) {
    let for_all = replies
        .iter()
        .find(|reply| reply.for_all || !matches!(reply.action, Action::Answer { .. }));
    if let Some(reply) = for_all {
        return (
            reply.action.clone(),
            vec![reply.action.verdict(); replies.len()],
        );
    }
    let verdicts: Vec<_> = replies.iter().map(|reply| entry(&reply.action)).collect();
    let action = Action::Answer {
        status: 200,
        headers: vec![("content-type".into(), "application/json".into())],
        body: json!({ "verdicts": verdicts }).to_string().into_bytes(),
    };
    let verdicts = replies.iter().map(|reply| reply.action.verdict());
    (action, verdicts.collect())
}

/// The verdict that a status means for one message.
fn entry(action: &Action) -> Value {
    let Action::Answer {
        status,
        headers,
        body,
    } = action
    else {
        return Value::Null;
    };
    let name = match status {
        200..300 => {
            return match produce::list(body) {
                Some(records) => json!({ "verdict": "done", "produce": records }),
                None => json!("done"),
            };
        }
        408 | 425 | 429 | 500.. => "retry",
        _ => "fail",
    };
    let mut entry = json!({ "verdict": name, "reason": String::from_utf8_lossy(body) });
    let wait = headers.iter().find(|(name, _)| name == "retry-after");
    if let Some(Ok(seconds)) = wait.map(|(_, value)| value.parse::<f64>()) {
        entry["retryAfter"] = json!(seconds);
    }
    entry
}
