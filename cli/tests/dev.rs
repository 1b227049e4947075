//! `penstock dev`, end to end: the real binary, its broker, real handlers.

mod common;
mod local;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;

use common::{Ended, LIMIT, Outcome, ended, manifest, penstock, repository};
use local::{Local, places};
use penstock_tests::process::{ProcessError, Program, Signal, Stream, find_binary};
use penstock_tests::wait;
use rdkafka::mocking::MockCluster;

fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[tokio::test]
async fn in_order_handles_each_partition_in_its_order_and_nothing_twice() -> Outcome {
    let local = Local::new(&manifest("InOrder", ""))?;
    local.messages((0..2_000).map(|n| format!("{{\"n\": {n}}}")))?;
    let ended = local.printing(&[]).run_until_done().await?;
    assert_eq!(ended.code(), Some(0), "{}", ended.err);
    let mut next = BTreeMap::new();
    for (partition, offset) in places(&ended.out) {
        let expected = next.entry(partition).or_insert(0);
        assert_eq!(offset, *expected, "partition {partition}");
        *expected += 1;
    }
    assert_eq!(next.values().sum::<i64>(), 2_000);
    assert!(next.len() > 1, "one partition has them all: {next:?}");
    assert!(
        ended.err.contains("done      2,000 handled in "),
        "{}",
        ended.err
    );
    Ok(())
}

#[tokio::test]
async fn fast_handles_every_message_once() -> Outcome {
    let local = Local::new(&manifest(
        "Fast",
        "  maxConcurrency: 16\n  commit: Handled\n",
    ))?;
    local.messages((0..2_000).map(|n| format!("{{\"n\": {n}}}")))?;
    let ended = local.printing(&[]).run_until_done().await?;
    assert_eq!(ended.code(), Some(0), "{}", ended.err);
    let mut seen = places(&ended.out);
    assert_eq!(seen.len(), 2_000);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 2_000);
    Ok(())
}

#[tokio::test]
async fn the_python_example_runs_as_its_readme_says() -> Outcome {
    let local = Local::new("")?;
    local.messages((0..10_000).map(|n| format!("{{\"id\": {n}}}")))?;
    let handler = repository("examples/python/handler.py");
    let manifest = repository("examples/python/consumer.yaml");
    let ended = local
        .dev(&manifest, "python3")
        .arg(handler)
        .run_until_done()
        .await?;
    assert_eq!(ended.code(), Some(0), "{}", ended.err);
    assert!(
        ended
            .out
            .starts_with("handler | 10000 orders, the last from orders/"),
        "{}",
        ended.out
    );
    Ok(())
}

#[tokio::test]
async fn an_embedded_consumer_gets_more_than_the_broker_keeps_without_loss() -> Outcome {
    let program = match find_binary("orders-rust") {
        Err(ProcessError::NoBinary(_)) => {
            let build = Program::new(env!("CARGO"))
                .args(["build", "--package", "penstock-example-rust"])
                .start()?;
            assert!(build.wait(LIMIT * 10).await?.success(), "{}", build.tail());
            find_binary("orders-rust")?
        }
        found => found?,
    };
    let local = Local::new("")?;
    // 20 MB on one partition, of which the broker keeps 5.
    let filler = "x".repeat(1_000);
    local.messages(
        (0..20_000)
            .map(|n| format!("{{\"id\": {n}, \"amount\": 1.5, \"filler\": \"{filler}\"}}"))
            .chain(["{\"id\": 0, \"amount\": -1}".to_owned()]),
    )?;
    let ended = local
        .dev(&repository("examples/rust/consumer.yaml"), program)
        .embedded()
        .option("--partitions", "1")
        .run_until_done()
        .await?;
    assert_eq!(ended.code(), Some(0), "{}", ended.err);
    assert!(ended.err.contains("20,000 handled in "), "{}", ended.err);
    assert!(
        ended
            .err
            .trim_end()
            .ends_with("/s) · 1 failed · 1 dead-lettered"),
        "{}",
        ended.err
    );
    assert!(
        ended
            .out
            .contains("handler | 20000 orders, the last from orders/0@")
    );
    Ok(())
}

#[tokio::test]
async fn a_stop_waits_for_the_message_in_flight_and_leaves_the_rest() -> Outcome {
    for signal in [Signal::INT, Signal::TERM] {
        let local = Local::new(&manifest("InOrder", ""))?;
        local.messages((0..100).map(|n| format!("{{\"n\": {n}}}")))?;
        let process = local.printing(&["0.3"]).start()?;
        process.wait_for_line("handler | begin", LIMIT).await?;
        process.signal(signal)?;
        let ended = ended(&process).await?;
        assert_eq!(ended.code(), Some(0), "{}", ended.err);
        let begun = count(&ended.out, "handler | begin");
        assert_eq!(count(&ended.out, "handler | handled"), begun);
        assert!(begun < 100);
        assert!(ended.err.contains("stopping"), "{}", ended.err);
        assert!(
            ended.err.contains(&format!("done      {begun} handled")),
            "{}",
            ended.err
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_stop_before_the_handler_is_up_ends_it() -> Outcome {
    let local = Local::new(&manifest("InOrder", ""))?;
    let script = "echo here; exec sleep 600";
    let process = local.shell(script).start()?;
    process.wait_for_line("handler | here", LIMIT).await?;
    process.terminate()?;
    let ended = ended(&process).await?;
    assert_eq!(ended.code(), Some(0), "{}", ended.err);
    assert!(ended.err.contains("stopped before the handler was up"));
    Ok(())
}

#[tokio::test]
async fn what_a_python_handler_prints_is_shown_at_once() -> Outcome {
    let local = Local::new(&manifest("InOrder", ""))?;
    let script = "import time; print('here'); time.sleep(600)";
    let program = local.dev(local.manifest(), "python3");
    let process = program.arg("-c").arg(script).start()?;
    process.wait_for_line("handler | here", LIMIT).await?;
    process.terminate()?;
    ended(&process).await?;
    Ok(())
}

#[tokio::test]
async fn a_handler_that_ends_at_once_is_named_with_its_status() -> Outcome {
    let local = Local::new(&manifest("InOrder", ""))?;
    let ended = local.shell("echo no database >&2; exit 3").run().await?;
    assert_eq!(ended.code(), Some(1));
    assert!(
        ended.err.contains("handler | no database\n"),
        "{}",
        ended.err
    );
    assert!(
        ended
            .err
            .contains("ended with exit status: 3 before it accepted connections"),
        "{}",
        ended.err
    );
    Ok(())
}

#[tokio::test]
async fn a_handler_that_never_listens_is_told_port_and_remedy() -> Outcome {
    let local = Local::new(&manifest("InOrder", ""))?;
    let ended = local
        .shell("exec sleep 600")
        .option("--start-timeout", "500ms")
        .run()
        .await?;
    assert_eq!(ended.code(), Some(1));
    let port = local.handler_port();
    let expected = format!(
        "does not listen on 127.0.0.1:{port} after 500ms; let it listen on the address in PORT, correct spec.handler.port"
    );
    assert!(ended.err.contains(&expected), "{}", ended.err);
    Ok(())
}

#[tokio::test]
async fn a_handler_of_another_protocol_or_on_loopback_alone_is_told_so() -> Outcome {
    const LISTEN: &str = "import socket, os\ns = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))\nwhile True: s.accept()[0].sendall(b'HTTP/1.1 505 no\\r\\n\\r\\n')";
    let grpc = Local::new(
        &manifest("Fast", "").replace("timeout: 5s\n", "timeout: 5s\n    protocol: Grpc\n"),
    )?;
    let ended = grpc
        .dev(grpc.manifest(), "python3")
        .arg("-c")
        .arg(LISTEN)
        .option("--start-timeout", "10s")
        .run()
        .await?;
    assert_eq!(ended.code(), Some(1));
    let port = grpc.handler_port();
    let expected = format!("a program listens on 127.0.0.1:{port}, but not as a gRPC server: ");
    assert!(ended.err.contains(&expected), "{}", ended.err);

    let http = Local::new(&manifest("InOrder", ""))?;
    let process = http
        .dev(http.manifest(), "python3")
        .arg("-c")
        .arg(LISTEN)
        .start()?;
    process
        .wait_for_line("note: the handler listens on 127.0.0.1 alone", LIMIT)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_second_signal_ends_a_run_whose_handler_is_busy() -> Outcome {
    let local = Local::new(&manifest("InOrder", ""))?;
    local.messages(["{}"])?;
    let process = local.printing(&["600"]).start()?;
    process.wait_for_line("1 in flight", LIMIT).await?;
    process.signal(Signal::INT)?;
    process
        .wait_for_line("a second signal ends the run", LIMIT)
        .await?;
    process.signal(Signal::INT)?;
    assert_eq!(process.wait(LIMIT).await?.code(), Some(130));
    Ok(())
}

#[tokio::test]
async fn a_port_that_is_found_is_free_for_a_handler_that_is_started_apart() -> Outcome {
    let local = Local::new(&manifest("InOrder", ""))?;
    let program = penstock()
        .args(["dev", "-f"])
        .arg(local.manifest())
        .args(["--metrics-address", "127.0.0.1:0"])
        .args(["--health-address", "127.0.0.1:0"])
        .args(["--handler-port", "0", "--start-timeout", "500ms"]);
    let ended = common::run(program).await?;
    assert_eq!(ended.code(), Some(1));
    let expected = "after 500ms; start it, or give its command after '--'";
    assert!(ended.err.contains(expected), "{}", ended.err);
    Ok(())
}

#[tokio::test]
async fn a_handler_that_dies_at_work_is_an_error() -> Outcome {
    let local = Local::new(&manifest("InOrder", ""))?;
    local.messages(["{\"n\": 1}"])?;
    let script = "import os, http.server as h
class H(h.BaseHTTPRequestHandler):
    def do_POST(self): os._exit(7)
h.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()";
    let ended = local
        .dev(local.manifest(), "python3")
        .arg("-c")
        .arg(script)
        .run_until_done()
        .await?;
    assert_eq!(ended.code(), Some(1));
    assert!(
        ended
            .err
            .contains("ended with exit status: 7 while messages were being handled"),
        "{}",
        ended.err
    );
    Ok(())
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told_so() -> Outcome {
    let local = Local::new(&manifest("InOrder", ""))?;
    let program = local.dev(local.manifest(), "no-such-handler");
    let ended = program.run().await?;
    assert_eq!(ended.code(), Some(1));
    assert!(
        ended
            .err
            .contains("'no-such-handler' can't be started: there is no such program in PATH"),
        "{}",
        ended.err
    );
    Ok(())
}

#[tokio::test]
async fn a_failed_message_ends_the_run_with_reason_and_remedy() -> Outcome {
    let local = Local::new(&manifest("InOrder", ""))?;
    local.messages(["{\"n\": 1}", "{\"poison\": 1}", "{\"n\": 2}"])?;
    let ended = local
        .printing(&[])
        .option("--partitions", "1")
        .run_until_done()
        .await?;
    assert_eq!(ended.code(), Some(1));
    assert_eq!(places(&ended.out), [(0, 0)]);
    for part in [
        "ended     1 handled",
        "1 failed",
        "partition 0 offset 1",
        "the handler answered 422",
        "set spec.delivery.onFailure to Skip or DeadLetter",
    ] {
        assert!(ended.err.contains(part), "{part}: {}", ended.err);
    }
    Ok(())
}

#[tokio::test]
async fn dead_letters_skips_and_retries_are_in_the_summary() -> Outcome {
    let lines = [
        "{\"n\": 1}",
        "{\"poison\": 1}",
        "not JSON",
        "{\"later\": 1}",
        "{\"n\": 2}",
    ];
    let delivery = "  delivery:
    maxAttempts: 3
    backoff: {initial: 10ms}
    onFailure: ";
    for (action, word) in [
        (
            "DeadLetter\n    deadLetterTopic: orders.dead\n",
            "dead-lettered",
        ),
        ("Skip\n", "skipped"),
    ] {
        let local = Local::new(&manifest("InOrder", &format!("{delivery}{action}")))?;
        local.messages(lines)?;
        let ended = local.printing(&[]).run_until_done().await?;
        assert_eq!(ended.code(), Some(0), "{}", ended.err);
        let summary = ended.err.lines().last().unwrap_or_default();
        let troubles = format!(" · 3 failed · 2 retried · 1 invalid · 2 {word}");
        assert!(summary.starts_with("done      2 handled in "), "{summary}");
        assert!(summary.ends_with(&troubles), "{summary}");
    }
    Ok(())
}

#[tokio::test]
async fn latest_misses_nothing_of_what_is_produced_here_and_takes_nothing_from_before() -> Outcome {
    let text = manifest("InOrder", "").replace("Earliest", "Latest");
    let lines = || (0..200).map(|n| format!("{{\"n\": {n}}}"));

    let local = Local::new(&text)?;
    local.messages(lines())?;
    let ended = local.printing(&[]).run_until_done().await?;
    assert_eq!(places(&ended.out).len(), 200, "{}", ended.err);

    let cluster = MockCluster::new(1)?;
    cluster.create_topic("orders", 2, 1)?;
    let brokers = cluster.bootstrap_servers();
    let before = Local::new(&manifest("InOrder", "").replace("billing.orders", "other.orders"))?;
    before.messages(lines())?;
    let ended = before
        .printing(&[])
        .option("--brokers", &brokers)
        .run_until_done()
        .await?;
    assert_eq!(places(&ended.out).len(), 200, "{}", ended.err);
    let ended = local
        .printing(&[])
        .option("--brokers", &brokers)
        .run_until_done()
        .await?;
    assert_eq!(places(&ended.out).len(), 200, "{}", ended.err);
    assert!(ended.err.contains(&format!(
        "broker    {brokers}, instead of the manifest's kafka:9092"
    )));
    Ok(())
}

#[tokio::test]
async fn keys_decide_the_partition() -> Outcome {
    let local = Local::new(&manifest("InOrder", ""))?;
    local.messages((0..100).map(|n| format!("customer-1\t{{\"n\": {n}}}")))?;
    let ended = local
        .printing(&[])
        .option("--key-separator", "\\t")
        .run_until_done()
        .await?;
    let seen = places(&ended.out);
    assert_eq!(seen.len(), 100, "{}", ended.err);
    assert!(seen.iter().all(|(partition, _)| *partition == seen[0].0));

    local.messages(["a\t{\"n\": 1}", "{\"n\": 2}"])?;
    let ended = local
        .printing(&[])
        .option("--key-separator", "\\t")
        .run_until_done()
        .await?;
    assert_eq!(ended.code(), Some(1));
    let expected = "messages.jsonl, line 2: the separator \"\\t\" between key and value is missing";
    assert!(ended.err.contains(expected), "{}", ended.err);
    Ok(())
}

#[tokio::test]
async fn what_is_typed_is_produced_line_by_line() -> Outcome {
    let local = Local::new(&manifest("InOrder", ""))?;
    let process = local
        .printing(&[])
        .option("--produce", "-")
        .program()
        .open_input()
        .start()?;
    process.write("{\"n\": 1}\n\n")?;
    process
        .wait_for_line("handler | handled orders", LIMIT)
        .await?;
    process.write("{\"n\": 2}\r\n")?;
    process.end_input();
    process
        .wait_for_line("produced  2 messages from <stdin>", LIMIT)
        .await?;
    let both = async || process.count("handler | handled orders") == 2;
    wait::until("both messages to be handled", LIMIT, both).await?;
    // Standard input has ended, which is no end of the consumer.
    assert_eq!(process.status(), None);
    process.signal(Signal::INT)?;
    let ended = ended(&process).await?;
    assert_eq!(ended.code(), Some(0), "{}", ended.err);
    assert!(ended.err.contains("done      2 handled"), "{}", ended.err);
    Ok(())
}

#[tokio::test]
async fn a_missing_topic_is_told_before_anything_is_consumed() -> Outcome {
    let cluster = MockCluster::new(1)?;
    cluster.create_topic("other", 1, 1)?;
    let local = Local::new(&manifest("InOrder", ""))?;
    let ended = local
        .printing(&[])
        .option("--brokers", &cluster.bootstrap_servers())
        .run()
        .await?;
    assert_eq!(ended.code(), Some(1));
    for part in [
        "error: topic 'orders' does not exist. maybe it's misspelled or on a different kafka cluster?",
        "Create the topic, correct its name in the manifest, or leave --brokers out",
    ] {
        assert!(ended.err.contains(part), "{part}: {}", ended.err);
    }
    Ok(())
}

#[tokio::test]
async fn brokers_that_do_not_answer_are_given_up_after_ten_seconds() -> Outcome {
    let port = local::free_port()?;
    let local = Local::new(&manifest("InOrder", ""))?;
    let ended = local
        .printing(&[])
        .option("--brokers", &format!("127.0.0.1:{port}"))
        .run()
        .await?;
    assert_eq!(ended.code(), Some(1));
    for part in [
        &format!("error: failed getting metadata from 127.0.0.1:{port}, exiting."),
        "Check that a broker listens there",
        "Connection refused",
    ] {
        assert!(ended.err.contains(part), "{part}: {}", ended.err);
    }
    // It goes on for ten seconds; one line a try would bury what matters.
    assert!(ended.err.lines().count() < 40, "{}", ended.err);
    Ok(())
}

#[tokio::test]
async fn bad_manifests_and_arguments_start_nothing() -> Outcome {
    let good = manifest("InOrder", "");
    let two = format!(
        "{good}---\n{}",
        good.replace("name: orders", "name: others")
    );
    let socket = good.replace("timeout: 5s", "socket: /run/penstock/handler.sock");
    let embedded = good.replace("timeout: 5s", "protocol: Embedded");
    let cases: [(&str, &[&str], &str); 8] = [
        (
            &two,
            &[],
            "found 2 KafkaConsumers (orders, others), and one can run here; give a file with one",
        ),
        (
            "kind: ConfigMap\napiVersion: v1\n",
            &[],
            "found no KafkaConsumer, but ConfigMap; give a file with one",
        ),
        (
            &good.replace("mode: InOrder", "mode: inorder"),
            &[],
            "consumer.yaml:8: spec.mode: must be one of InOrder, KeyOrdered, Fast; did you mean 'InOrder'?",
        ),
        (
            &good,
            &["--brokers", "kafka"],
            "spec.kafka.bootstrapServers: must be one or more host:port",
        ),
        (
            &good,
            &["--produce", "nowhere.jsonl"],
            "the messages can't be read: nowhere.jsonl: there is no such file",
        ),
        (
            &good,
            &["--produce", "/dev/null", "--produce-topic", "other"],
            "--produce-topic: the consumer does not read 'other', it reads orders; name one of these topics",
        ),
        (
            &socket,
            &["--handler-port", "0"],
            "listens on the socket /run/penstock/handler.sock",
        ),
        (
            &embedded,
            &["--handler-port", "0"],
            "is Embedded and has no port",
        ),
    ];
    for (text, arguments, expected) in cases {
        let local = Local::new(text)?;
        let program = penstock()
            .args(["dev", "-f"])
            .arg(local.manifest())
            .args([
                "--metrics-address",
                "127.0.0.1:0",
                "--health-address",
                "127.0.0.1:0",
            ])
            .args(arguments)
            .args(["--", "sh", "-c", "echo started"]);
        let ended = common::run(program).await?;
        assert_eq!(ended.code(), Some(1), "{expected}");
        assert!(ended.err.contains(expected), "{expected}: {}", ended.err);
        assert_eq!(ended.out, "");
    }
    Ok(())
}

#[tokio::test]
async fn an_address_in_use_is_told_before_anything_starts() -> Outcome {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let local = Local::new(&manifest("InOrder", ""))?;
    for page in ["metrics", "health"] {
        let ended = local
            .shell("echo started")
            .option(&format!("--{page}-address"), &address)
            .run()
            .await?;
        assert_eq!(ended.code(), Some(1));
        for part in [
            format!("the {page} page can't be served at {address}: "),
            format!("choose another address with --{page}-address"),
        ] {
            assert!(ended.err.contains(&part), "{part}: {}", ended.err);
        }
        assert_eq!(ended.out, "");
    }
    let port = taken.local_addr()?.port().to_string();
    let ended = local
        .shell("echo started")
        .option("--handler-port", &port)
        .option("--metrics-address", &address)
        .option("--health-address", &address)
        .run()
        .await?;
    for expected in [
        format!("error: the metrics page can't be served at {address}: "),
        format!("error: the health page can't be served at {address}: "),
        format!("error: the handler can't listen on port {port}: "),
    ] {
        assert!(ended.err.contains(&expected), "{expected}: {}", ended.err);
    }
    assert_eq!((ended.code(), ended.out.as_str()), (Some(1), ""));
    Ok(())
}

#[tokio::test]
async fn pages_are_served_and_without_a_terminal_progress_comes_in_plain_lines() -> Outcome {
    let local = Local::new(&manifest("InOrder", ""))?;
    local.messages((0..1_000).map(|n| format!("{{\"n\": {n}}}")))?;
    let process = local.printing(&["0.05"]).start()?;
    process.wait_for_line("handler | handled", LIMIT).await?;
    let line = process.wait_for_line("metrics   http://", LIMIT).await?;
    let url = line.text.trim_start_matches("metrics   http://");
    let (address, path) = url.split_once('/').unwrap_or_default();
    assert_eq!(path, "metrics");
    let page = local::get(address, "/metrics").await?;
    let series = "kafka_consumer_messages_processed_total{kafka_client_name=\"\",kafka_success=\"true\",kafka_topic=\"orders\"} ";
    assert!(page.contains(series), "{page}");
    let line = process.wait_for_line("health    http://", LIMIT).await?;
    let url = line.text.trim_start_matches("health    http://");
    let (address, _) = url.split_once('/').unwrap_or_default();
    let health = local::get(address, "/health").await?;
    assert!(health.contains("\"status\":\"healthy\""), "{health}");

    let progress = process.wait_for_line(" · 1 in flight", LIMIT).await?;
    assert_eq!(progress.stream, Stream::Err);
    for part in [" handled · ", "/s · lag "] {
        assert!(progress.text.contains(part), "{}", progress.text);
    }
    process.terminate()?;
    let Ended { status, err, out } = ended(&process).await?;
    assert!(status.success(), "{err}");
    for text in [out, err] {
        assert!(!text.contains(['\r', '\u{1b}']), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn the_handler_has_the_manifests_variables_and_goes_even_if_penstock_is_killed() -> Outcome {
    let env = "    env:
      - {name: GREETING, value: hello}
      - name: PENSTOCK_TEST_PASSWORD
        valueFrom: {secretKeyRef: {name: db, key: password}}
";
    let local = Local::new(&manifest("InOrder", env))?;
    let port = local.handler_port();
    let process = local
        .shell("echo $GREETING $PORT; echo pid $$; exec sleep 600")
        .start()?;
    process
        .wait_for_line(&format!("handler | hello {port}"), LIMIT)
        .await?;
    process
        .wait_for_line(
            "note: the handler's variable PENSTOCK_TEST_PASSWORD comes from the cluster",
            LIMIT,
        )
        .await?;
    let line = process.wait_for_line("handler | pid ", LIMIT).await?;
    let pid = line.text.trim_start_matches("handler | pid ").to_owned();
    process.kill()?;
    let gone = async || !Path::new("/proc").join(&pid).join("cmdline").exists();
    wait::until("the handler to end", LIMIT, gone).await?;
    Ok(())
}
