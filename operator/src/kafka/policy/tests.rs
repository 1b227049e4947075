use super::*;

fn policy(allowed: &[&str], denied: &[&str]) -> BrokerPolicy {
    BrokerPolicy::new(
        allowed.iter().map(|text| text.parse().unwrap()).collect(),
        denied.iter().map(|text| text.parse().unwrap()).collect(),
    )
}

#[test]
fn without_patterns_any_broker_is_allowed() {
    assert_eq!(policy(&[], &[]).check("shop", "a:1, b:2"), Ok(()));
}

#[test]
fn a_namespace_has_its_own_patterns_or_those_of_all() {
    let policy = policy(
        &[
            "*.kafka.svc:9092",
            "shop=Kafka.shop.svc:*",
            "shop=10.0.0.7:9092",
            "open=*:*",
        ],
        &[],
    );
    let cases = [
        ("billing", "k-0.kafka.svc:9092,k-1.b.kafka.svc:9092", true),
        ("billing", "K-0.KAFKA.svc.:9092", true),
        ("billing", "k-0.kafka.svc:9093", false),
        ("billing", "kafka.svc:9092", false),
        ("billing", "evilkafka.svc:9092", false),
        ("billing", "k-0.kafka.svc:9092,evil.example:9092", false),
        ("shop", "kafka.shop.svc:1", true),
        ("shop", "10.0.0.7:9092", true),
        ("shop", "k-0.kafka.svc:9092", false),
        ("open", "[::1]:443", true),
    ];
    for (namespace, brokers, allowed) in cases {
        let checked = policy.check(namespace, brokers);
        assert_eq!(checked.is_ok(), allowed, "{namespace} {brokers}");
    }
    assert_eq!(
        policy.check("billing", "k.kafka.svc:9092,evil:1"),
        Err(NotAllowed("evil:1".into()))
    );
}

#[test]
fn a_namespace_without_patterns_has_none_where_there_is_no_default() {
    assert!(policy(&["shop=*:*"], &[]).check("billing", "k:1").is_err());
}

fn resolved(policy: &BrokerPolicy, host: &str) -> Result<Vec<SocketAddr>, ResolveError> {
    policy.resolve("shop", host, 9092)
}

#[test]
fn addresses_in_denied_networks_are_refused_in_every_spelling() {
    let policy = policy(
        &[],
        &["loopback", "link-local", "10.96.0.0/12", "fd12::/16"],
    );
    for denied in [
        "127.0.0.1",
        "127.1.2.3",
        "::1",
        "localhost",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "::",
        "169.254.169.254",
        "fe80::1",
        "fd00:ec2::254",
        "10.96.0.1",
        "10.111.255.255",
        "fd12:34::1",
    ] {
        let refused = ResolveError::NotAllowed(NotAllowed(address(denied, 9092)));
        assert_eq!(resolved(&policy, denied), Err(refused), "{denied}");
    }
    for allowed in ["10.95.255.255", "10.112.0.0", "192.0.2.1", "2001:db8::1"] {
        let ip: IpAddr = allowed.parse().unwrap();
        let addresses = vec![SocketAddr::new(ip, 9092)];
        assert_eq!(resolved(&policy, allowed), Ok(addresses), "{allowed}");
    }
}

const SEARCH: &str = "search operators.svc.cluster.local svc.cluster.local cluster.local
    options ndots:5";

/// What there is in the cluster: a Service `kafka` in both namespaces, and one of kafka's.
fn look_up(name: &str) -> Lookup {
    let address = match name {
        "kafka.shop.svc.cluster.local." => "10.0.0.1:9092",
        "kafka.operators.svc.cluster.local." => "10.0.0.2:9092",
        "kafka.central.svc.cluster.local." => "10.0.0.3:9092",
        // A pod of namespace svc, behind its Service kafka.
        "k.kafka.svc.svc.cluster.local." => "10.0.0.4:9092",
        "kafka.example.com." => "192.0.2.1:9092",
        // Pods of namespace com, behind its Services example and other.
        "b-1.example.com.svc.cluster.local." => "10.0.0.5:9092",
        "kafka.com.svc.cluster.local." => "10.0.0.6:9092",
        _ => return Lookup::Found(Vec::new()),
    };
    Lookup::Found(vec![address.parse().unwrap()])
}

fn found(policy: &BrokerPolicy, host: &str) -> Option<String> {
    let found = policy.resolve_by("shop", host, 9092, look_up).ok()?;
    found.first().map(ToString::to_string)
}

#[test]
fn a_short_name_is_resolved_and_allowed_in_the_consumer_s_namespace() {
    let with = |allowed: &[&str]| policy(allowed, &[]).searching(SearchPath::parse(SEARCH));
    let own = Some("10.0.0.1:9092".to_owned());
    let central = Some("10.0.0.3:9092".to_owned());
    assert_eq!(found(&with(&[]), "kafka"), own);
    assert_eq!(found(&with(&[]), "kafka.central"), central);
    for allowed in ["kafka.shop.svc:9092", "*.shop.svc.cluster.local:*", "*:*"] {
        let policy = with(&[allowed]);
        assert_eq!(policy.check("shop", "kafka:9092"), Ok(()), "{allowed}");
        assert_eq!(found(&policy, "kafka"), own, "{allowed}");
    }
    // The name alone does not allow what a tenant calls so in its namespace.
    for allowed in ["kafka:9092", "kafka.operators.svc:9092", "kafka.shop.svc:1"] {
        assert_eq!(found(&with(&[allowed]), "kafka"), None, "{allowed}");
    }
    for allowed in [
        "kafka.central:9092",
        "*.central.svc:9092",
        "*.svc.cluster.local:*",
    ] {
        let policy = with(&[allowed]);
        assert_eq!(
            policy.check("shop", "kafka.central:9092"),
            Ok(()),
            "{allowed}"
        );
        assert_eq!(found(&policy, "kafka.central"), central, "{allowed}");
    }
    let unknown = with(&[]).resolve_by("shop", "nothing", 9092, look_up);
    assert_eq!(unknown, Ok(Vec::new()));
}

#[test]
fn a_pattern_of_a_namespace_allows_no_name_of_the_namespace_svc() {
    for allowed in [
        "*.kafka.svc:*",
        "k.kafka.svc:9092",
        "*.kafka.svc.cluster.local:*",
    ] {
        let policy = policy(&[allowed], &[]).searching(SearchPath::parse(SEARCH));
        for namespace in ["svc", "shop"] {
            for host in ["k.kafka.svc", "k.kafka"] {
                let found = policy.resolve_by(namespace, host, 9092, look_up);
                let refused = NotAllowed(format!("{host}:9092"));
                let expected = match (namespace, host) {
                    ("shop", "k.kafka") => Ok(Vec::new()),
                    _ => Err(ResolveError::NotAllowed(refused)),
                };
                assert_eq!(found, expected, "{host} in {namespace} by {allowed}");
            }
        }
    }
    let own = policy(&["*.svc.svc:*"], &[]).searching(SearchPath::parse(SEARCH));
    assert!(own.resolve_by("svc", "k.kafka", 9092, look_up).is_ok());
}

/// Anybody may have a namespace that is called like a top-level domain.
#[test]
fn a_pattern_of_public_names_allows_no_name_of_the_cluster() {
    let with = |allowed: &[&str]| policy(allowed, &[]).searching(SearchPath::parse(SEARCH));
    let service = |address: &str| Some(address.to_owned());
    let cases = [
        ("*.example.com:*", "b-1.example.com", None),
        ("*.com:*", "kafka.com", None),
        ("*.com:*", "b-1.example.com", None),
        // The public name, which the cluster does not have.
        (
            "*.example.com:*",
            "kafka.example.com",
            service("192.0.2.1:9092"),
        ),
        // Names of the cluster are meant.
        (
            "*.example.com.svc:*",
            "b-1.example.com",
            service("10.0.0.5:9092"),
        ),
        ("*.com.svc:*", "kafka.com", service("10.0.0.6:9092")),
        ("*.svc:*", "kafka.com", service("10.0.0.6:9092")),
        ("*.cluster.local:*", "kafka.com", service("10.0.0.6:9092")),
        ("kafka.com:*", "kafka.com", service("10.0.0.6:9092")),
        ("*:*", "kafka.com", service("10.0.0.6:9092")),
        ("*.central:*", "kafka.central", None),
        (
            "*.central.svc:*",
            "kafka.central.svc",
            service("10.0.0.3:9092"),
        ),
    ];
    for (allowed, host, expected) in cases {
        assert_eq!(
            found(&with(&[allowed]), host),
            expected,
            "{host} by {allowed}"
        );
    }
}

/// The resolver answers as above, but for these names.
fn without_answer(silent: &[&str]) -> impl Fn(&str) -> Lookup {
    move |name| match silent.contains(&name) {
        true => Lookup::NoAnswer,
        false => look_up(name),
    }
}

#[test]
fn a_name_without_an_answer_is_neither_absent_nor_refused() {
    const OWN: &str = "kafka.shop.svc.cluster.local.";
    const CENTRAL: &str = "kafka.central.shop.svc.cluster.local.";
    const CORP: &str = "kafka.example.com.corp.example.";
    let search = SEARCH.replace("\n", " corp.example\n");
    let searching = |allowed: &[&str]| policy(allowed, &[]).searching(SearchPath::parse(&search));
    let no_answer = |host: &str| Err(ResolveError::NoAnswer(NoAnswer(format!("{host}:9092"))));
    let found = |address: &str| Ok(vec![address.parse::<SocketAddr>().unwrap()]);
    let cases = [
        // The name itself, and one before that of another broker.
        ("*:*", "kafka", OWN, no_answer("kafka")),
        ("*:*", "kafka.central", CENTRAL, no_answer("kafka.central")),
        (
            "other:1",
            "kafka.central",
            CENTRAL,
            no_answer("kafka.central"),
        ),
        // The name that resolves comes first.
        (
            "*:*",
            "kafka",
            "kafka.svc.cluster.local.",
            found("10.0.0.1:9092"),
        ),
        // A search domain outside the cluster.
        (
            "*.example.com:*",
            "kafka.example.com",
            CORP,
            found("192.0.2.1:9092"),
        ),
        (
            "other:1",
            "kafka.example.com",
            CORP,
            no_answer("kafka.example.com"),
        ),
        (
            "*:*",
            "kafka.example.com",
            "kafka.example.com.",
            no_answer("kafka.example.com"),
        ),
    ];
    for (allowed, host, silent, expected) in cases {
        let policy = searching(&[allowed]);
        let resolved = policy.resolve_by("shop", host, 9092, without_answer(&[silent]));
        assert_eq!(
            resolved, expected,
            "{host} without {silent}, allowed {allowed}"
        );
    }
    let refused = searching(&["other:1"]).resolve_by("shop", "kafka", 9092, look_up);
    assert_eq!(
        refused,
        Err(ResolveError::NotAllowed(NotAllowed("kafka:9092".into())))
    );
}

#[test]
fn errors_of_the_resolver_tell_an_absent_name_from_a_silent_server() {
    let lookup = |text: &str| {
        let text = format!("failed to lookup address information: {text}");
        absent(&io::Error::other(text))
    };
    assert_eq!(
        lookup("Name or service not known"),
        Lookup::Found(Vec::new())
    );
    assert_eq!(
        lookup("No address associated with hostname"),
        Lookup::Found(Vec::new())
    );
    for may_pass in [
        "Temporary failure in name resolution",
        "Non-recoverable failure in name resolution",
        "Try again",
    ] {
        assert_eq!(lookup(may_pass), Lookup::NoAnswer, "{may_pass}");
    }
    let no_name = ("a\0b", 1).to_socket_addrs().unwrap_err();
    assert_eq!(absent(&no_name), Lookup::Found(Vec::new()), "{no_name}");
}

#[test]
fn what_is_no_pattern_or_network_is_refused() {
    for text in [
        "", "kafka", "kafka:x", ":1", "a*b:1", "*kafka:1", "=k:1", "*.:1", "k:99999",
    ] {
        assert!(text.parse::<AllowedBrokers>().is_err(), "{text}");
    }
    for text in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "lan", "10.0.0/8"] {
        assert!(text.parse::<DeniedNetworks>().is_err(), "{text}");
    }
}
