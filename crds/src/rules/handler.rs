//! Rules of the handler: where it listens and for how long it may work.

use crate::spec::Protocol;

use super::kinds::{HOUR, MILLISECOND, at, below, duration, found_text, integer, pattern, unless};
use super::{CelMessage, Finding, Rule};

/// Ports that the runtime itself listens on in the pod: metrics and health.
const RUNTIME_PORTS: [i32; 2] = [6060, 9090];

/// At least one directory below the root, because a volume is mounted there; no
/// `.` or `..`. Linux ends a socket's path at 107 bytes; the schema sees to that.
const SOCKET: &str = "^(/[a-zA-Z0-9_-][a-zA-Z0-9._-]*){2,}$";

/// A path and perhaps a query, of the characters that RFC 3986 allows there.
const URL_PATH: &str = "^/[a-zA-Z0-9._~!$&'()*+,;=:@%/?-]*$";

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = address();
    rules.extend([
        pattern(
            "image",
            &["spec.handler.image"],
            "^[!-~]+$",
            "name the handler's container image, without spaces, such as 'registry.example/billing:1.4'",
            |spec| vec![("spec.handler.image".into(), &spec.handler.image)],
        ),
        pattern(
            "handler-path",
            &["spec.handler.path"],
            URL_PATH,
            "must be a URL path that starts with '/', with other characters percent-encoded",
            |spec| vec![("spec.handler.path".into(), &spec.handler.path)],
        ),
        duration(
            "handler-timeout",
            "spec.handler.timeout",
            MILLISECOND..=HOUR,
            "must be 1ms to 1h",
            |spec| spec.handler.timeout,
        ),
    ]);
    rules.extend(grpc_times());
    rules
}

/// The times that only the Grpc protocol can keep: a handler reports what begins.
fn grpc_times() -> Vec<Rule> {
    vec![
        duration(
            "wait-timeout",
            "spec.handler.waitTimeout",
            MILLISECOND..=HOUR,
            "must be 1ms to 1h",
            |spec| spec.handler.wait_timeout.unwrap_or(HOUR),
        ),
        duration(
            "max-timeout",
            "spec.handler.maxTimeout",
            MILLISECOND..=HOUR,
            "must be 1ms to 1h",
            |spec| spec.handler.max_timeout.unwrap_or(HOUR),
        ),
        below(
            "max-timeout-above-timeout",
            "spec.handler",
            ".maxTimeout",
            "!has(self.maxTimeout) || duration(self.maxTimeout) >= duration(self.timeout)",
            CelMessage::Found(found_text("self.maxTimeout")),
            "must be at least spec.handler.timeout; raise it, or lower timeout",
            |spec| {
                let longest = spec.handler.max_timeout?;
                let kept = longest >= spec.handler.timeout;
                unless(kept, "spec.handler.maxTimeout", longest.to_string())
            },
        ),
        below(
            "wait-timeout-grpc",
            "spec.handler",
            ".waitTimeout",
            "self.protocol == 'Grpc' || !has(self.waitTimeout)",
            CelMessage::Found(found_text("self.waitTimeout")),
            "only a Grpc handler holds messages that have not begun; leave it out, or set protocol: Grpc",
            |spec| {
                let wait = spec.handler.wait_timeout?;
                let kept = spec.handler.protocol == Protocol::Grpc;
                unless(kept, "spec.handler.waitTimeout", wait.to_string())
            },
        ),
        below(
            "max-timeout-grpc",
            "spec.handler",
            ".maxTimeout",
            "self.protocol == 'Grpc' || !has(self.maxTimeout)",
            CelMessage::Found(found_text("self.maxTimeout")),
            "only a Grpc handler can ask for more time; leave it out, or set protocol: Grpc",
            |spec| {
                let longest = spec.handler.max_timeout?;
                let kept = spec.handler.protocol == Protocol::Grpc;
                unless(kept, "spec.handler.maxTimeout", longest.to_string())
            },
        ),
    ]
}

fn address() -> Vec<Rule> {
    vec![
        integer(
            "handler-port",
            "spec.handler.port",
            1..=65_535,
            "must be 1 to 65535",
            |spec| spec.handler.port.map(i64::from),
        ),
        at(
            "handler-port-free",
            &["spec.handler.port"],
            "self != 6060 && self != 9090",
            CelMessage::Fixed,
            "6060 and 9090 are the runtime's own ports, for metrics and health, in the same pod; choose another",
            |spec| {
                spec.handler
                    .port
                    .filter(|port| RUNTIME_PORTS.contains(port))
                    .map(|port| Finding::of("spec.handler.port", port))
                    .into_iter()
                    .collect()
            },
        ),
        pattern(
            "handler-socket",
            &["spec.handler.socket"],
            SOCKET,
            "must be an absolute path in a directory, no part of which begins with a dot, such as '/run/penstock/handler.sock'",
            |spec| {
                let socket = spec.handler.socket.as_deref();
                socket
                    .map(|path| ("spec.handler.socket".into(), path))
                    .into_iter()
                    .collect()
            },
        ),
        below(
            "handler-one-address",
            "spec.handler",
            ".socket",
            "!(has(self.port) && has(self.socket))",
            CelMessage::Found(found_text("self.socket")),
            "the handler listens on a port or on a socket; leave out port or socket",
            |spec| {
                let socket = spec.handler.socket.as_deref()?;
                unless(spec.handler.port.is_none(), "spec.handler.socket", socket)
            },
        ),
        below(
            "grpc-no-path",
            "spec.handler",
            ".path",
            "self.protocol != 'Grpc' || self.path == '/'",
            CelMessage::Found(found_text("self.path")),
            "a Grpc handler is called by its service's name and has no path; leave path out, or set protocol: Http or BatchHttp",
            |spec| {
                let handler = &spec.handler;
                unless(
                    handler.protocol != Protocol::Grpc || handler.path == "/",
                    "spec.handler.path",
                    handler.path.as_str(),
                )
            },
        ),
        below(
            "embedded-no-port",
            "spec.handler",
            ".port",
            "self.protocol != 'Embedded' || !has(self.port)",
            CelMessage::Fixed,
            "an Embedded handler is called within the process and has no port; leave port out, or set protocol: Http, BatchHttp or Grpc",
            |spec| {
                let port = spec.handler.port?;
                unless(
                    spec.handler.protocol != Protocol::Embedded,
                    "spec.handler.port",
                    port,
                )
            },
        ),
        below(
            "embedded-no-socket",
            "spec.handler",
            ".socket",
            "self.protocol != 'Embedded' || !has(self.socket)",
            CelMessage::Found(found_text("self.socket")),
            "an Embedded handler is called within the process and has no socket; leave socket out, or set protocol: Http, BatchHttp or Grpc",
            |spec| {
                let socket = spec.handler.socket.as_deref()?;
                unless(
                    spec.handler.protocol != Protocol::Embedded,
                    "spec.handler.socket",
                    socket,
                )
            },
        ),
    ]
}
