//! The Lease: candidates who never work at once, on a clock that runs when nobody
//! works.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use parking_lot::Mutex;
use penstock_operator::lease::{Attempt, Candidate, DEADLINE, DURATION, PERIOD, STANDBY_PERIOD};
use proptest::prelude::*;
use tokio::time::{Instant, sleep, timeout};

use crate::faults::Fault;
use crate::server::ApiServer;

const NAMESPACE: &str = "penstock";

fn candidate(api: &ApiServer, identity: &str) -> Candidate {
    let caller = identity.split('-').next().unwrap_or_default();
    let leases: Api<Lease> = Api::namespaced(api.client_of(caller), NAMESPACE);
    Candidate::new(
        leases,
        penstock_operator::NAME.to_owned(),
        identity.to_owned(),
    )
}

fn holder(api: &ApiServer) -> Option<String> {
    let lease = api.get("leases", "penstock-operator")?;
    lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
}

/// How long a candidate waits until the Lease is its own.
async fn acquire(candidate: &mut Candidate) -> Duration {
    let began = Instant::now();
    candidate.acquire(|_| {}).await;
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn one_holds_the_lease_and_the_other_waits() {
    let api = ApiServer::default();
    let (mut a, mut b) = (candidate(&api, "a"), candidate(&api, "b"));
    assert_eq!(a.attempt().await, Attempt::Held);
    assert_eq!(b.attempt().await, Attempt::Other("a".into()));
    let mut kept = Vec::new();
    let mut seen = Vec::new();
    let a_keeps = a.keep(|attempt| kept.push(attempt.clone()));
    let b_waits = b.acquire(|attempt| seen.push(attempt.clone()));
    let both = async {
        tokio::select! { _ = a_keeps => {}, () = b_waits => {} }
    };
    assert!(
        timeout(Duration::from_secs(3600), both).await.is_err(),
        "it changed hands"
    );
    assert!(kept.len() >= 700, "renewed {} times", kept.len());
    assert!(kept.iter().all(|attempt| *attempt == Attempt::Held));
    assert!(
        seen.iter()
            .all(|attempt| *attempt == Attempt::Other("a".into()))
    );
    assert_eq!(holder(&api).as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_is_one_request() {
    let api = ApiServer::default();
    let mut a = candidate(&api, "a");
    a.attempt().await;
    api.calls();
    for _ in 0..3 {
        assert_eq!(a.attempt().await, Attempt::Held);
        assert_eq!(api.spoken(), ["update leases penstock-operator"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_given_back_is_taken_at_the_next_look() {
    let api = ApiServer::default();
    let (mut a, mut b) = (candidate(&api, "a"), candidate(&api, "b"));
    a.attempt().await;
    assert_eq!(b.attempt().await, Attempt::Other("a".into()));
    a.release().await;
    assert_eq!(holder(&api), None);
    assert_eq!(b.attempt().await, Attempt::Held);
    // Whoever has nothing to give back takes nothing away.
    a.release().await;
    assert_eq!(holder(&api).as_deref(), Some("b"));
}

/// How long a standby waits for a holder that stops while a renewal is under way.
async fn handed_over(fault: impl Fn(&ApiServer)) -> Duration {
    let api = ApiServer::default();
    let (mut a, mut b) = (candidate(&api, "a"), candidate(&api, "b"));
    acquire(&mut a).await;
    fault(&api);
    let cut_off = timeout(PERIOD + Duration::from_millis(10), a.keep(|_| {})).await;
    assert!(cut_off.is_err(), "{cut_off:?}");
    let began = Instant::now();
    tokio::join!(a.release(), b.acquire(|_| {}));
    assert_eq!(holder(&api).as_deref(), Some("b"));
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_given_back_though_a_renewal_was_under_way() {
    // The API server takes the renewal, and its answer never comes; or it fails the first
    // requests that give the Lease back.
    let slow = Fault::Slow(Duration::from_secs(1));
    let renewed = handed_over(|api| api.fail("update leases", slow)).await;
    let refused = handed_over(|api| {
        api.fail("update leases", slow);
        for _ in 0..3 {
            api.fail("update leases", Fault::Status(409));
        }
    })
    .await;
    for waited in [renewed, refused] {
        assert!(waited <= STANDBY_PERIOD * 2, "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_cut_off_is_given_back() {
    let api = ApiServer::default();
    let (mut a, mut b) = (candidate(&api, "a"), candidate(&api, "b"));
    a.attempt().await;
    a.release().await;
    // The claim is taken, and its answer never comes.
    api.fail("update leases", Fault::Slow(Duration::from_secs(1)));
    let cut_off = timeout(Duration::from_millis(10), b.acquire(|_| {})).await;
    assert!(cut_off.is_err());
    assert_eq!(holder(&api).as_deref(), Some("b"));
    b.release().await;
    assert_eq!(holder(&api), None);
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_the_lease_is_taken_once_its_time_has_passed_and_not_sooner() {
    let api = ApiServer::default();
    let (mut a, mut b) = (candidate(&api, "a"), candidate(&api, "b"));
    a.attempt().await;
    let waited = acquire(&mut b).await;
    assert!(waited >= DURATION, "{waited:?}");
    assert!(waited <= DURATION + STANDBY_PERIOD, "{waited:?}");
    let lease = api.get("leases", "penstock-operator").unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 2);
    assert_eq!(
        a.attempt().await,
        Attempt::Other("b".into()),
        "a must not work on"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_renewed_late_is_not_taken() {
    let api = ApiServer::default();
    let (mut a, mut b) = (candidate(&api, "a"), candidate(&api, "b"));
    a.attempt().await;
    for _ in 0..5 {
        assert_eq!(b.attempt().await, Attempt::Other("a".into()));
        sleep(DURATION - Duration::from_secs(1)).await;
        assert_eq!(b.attempt().await, Attempt::Other("a".into()));
        assert_eq!(a.attempt().await, Attempt::Held);
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_stops_before_the_lease_runs_out() {
    for fault in [
        Fault::Lost,
        Fault::Unanswered,
        Fault::Status(500),
        Fault::Status(409),
    ] {
        let api = ApiServer::default();
        let mut a = candidate(&api, "a");
        acquire(&mut a).await;
        api.disturb(move |call| (call.verb == "update").then_some(fault));
        let began = Instant::now();
        let why = a.keep(|_| {}).await;
        let worked = began.elapsed();
        assert!(worked >= PERIOD, "{fault:?}: {worked:?}");
        assert!(worked <= DEADLINE, "{fault:?}: {worked:?}");
        assert!(worked < DURATION, "{fault:?}: {worked:?}");
        assert!(!why.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_works_on_through_a_short_outage() {
    let api = ApiServer::default();
    let mut a = candidate(&api, "a");
    acquire(&mut a).await;
    for fault in [Fault::Status(500), Fault::Lost, Fault::Status(429)] {
        api.fail("update leases", fault);
        let kept = timeout(PERIOD * 4, a.keep(|_| {})).await;
        assert!(kept.is_err(), "{fault:?}: {kept:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_took_is_lost_at_once() {
    let api = ApiServer::default();
    let mut a = candidate(&api, "a");
    acquire(&mut a).await;
    api.edit("leases", "penstock-operator", |lease| {
        lease["spec"]["holderIdentity"] = "b".into()
    });
    let began = Instant::now();
    assert_eq!(a.keep(|_| {}).await, "'b' holds it");
    assert!(began.elapsed() <= PERIOD + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn two_who_start_together_agree() {
    let api = ApiServer::default();
    // Both find no Lease, and create one.
    for _ in 0..2 {
        api.fail("get leases", Fault::Slow(Duration::from_secs(1)));
    }
    let (mut a, mut b) = (candidate(&api, "a"), candidate(&api, "b"));
    let (a, b) = tokio::join!(a.attempt(), b.attempt());
    let held = [&a, &b]
        .iter()
        .filter(|attempt| ***attempt == Attempt::Held)
        .count();
    assert_eq!(held, 1, "{a:?} {b:?}");
}

/// When each candidate began and ended to work.
type Shifts = Arc<Mutex<Vec<(Instant, Option<Instant>)>>>;

/// Somebody who works while the Lease is held, and ends the shift however it ends.
struct Shift(Shifts, usize);

impl Shift {
    fn begin(shifts: &Shifts) -> Self {
        let mut all = shifts.lock();
        all.push((Instant::now(), None));
        Self(Arc::clone(shifts), all.len() - 1)
    }
}

impl Drop for Shift {
    fn drop(&mut self) {
        self.0.lock()[self.1].1 = Some(Instant::now());
    }
}

/// Goes on as the program and its restarts do. A plan has a life for each start:
/// how long until the end, and whether that is a crash.
async fn live(api: ApiServer, name: &str, lives: Vec<(u64, bool)>, shifts: Shifts) {
    for (life, (seconds, crashes)) in lives.into_iter().enumerate() {
        let mut candidate = candidate(&api, &format!("{name}-{life}"));
        let end = Instant::now() + Duration::from_secs(seconds);
        let work = async {
            candidate.acquire(|_| {}).await;
            let _shift = Shift::begin(&shifts);
            candidate.keep(|_| {}).await;
        };
        let stopped = tokio::time::timeout_at(end, work).await.is_err();
        if stopped && !crashes {
            candidate.release().await;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// For how many seconds all calls of a candidate go well, or go wrong in one way.
type Phase = (u64, Option<Fault>);

fn phases() -> impl Strategy<Value = Vec<Phase>> {
    let wait = (0_u64..16_000).prop_map(Duration::from_millis);
    let fault = prop_oneof![
        2 => Just(Fault::Status(500)),
        1 => Just(Fault::Status(409)),
        1 => Just(Fault::Lost),
        1 => Just(Fault::Unanswered),
        1 => wait.clone().prop_map(Fault::Slow),
        1 => wait.prop_map(Fault::Late),
    ];
    let phase = (1_u64..25, prop::option::weighted(0.6, fault));
    prop::collection::vec(phase, 1..12)
}

fn lives() -> impl Strategy<Value = Vec<(u64, bool)>> {
    prop::collection::vec((1_u64..90, any::<bool>()), 1..6)
}

/// What goes wrong some time after the start. In the end nothing does.
fn fault_at(phases: &[Phase], time: Duration) -> Option<Fault> {
    let mut end = Duration::ZERO;
    let phase = phases.iter().find(|(seconds, _)| {
        end += Duration::from_secs(*seconds);
        time < end
    });
    phase.and_then(|(_, fault)| *fault)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_two_ever_work_at_once(
        a in lives(), b in lives(), a_suffers in phases(), b_suffers in phases(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let shifts = Shifts::default();
        runtime.block_on(async {
            let api = ApiServer::default();
            let start = Instant::now();
            api.disturb(move |call| {
                let phases = if call.caller == "a" { &a_suffers } else { &b_suffers };
                fault_at(phases, start.elapsed())
            });
            tokio::join!(
                live(api.clone(), "a", a, Arc::clone(&shifts)),
                live(api.clone(), "b", b, Arc::clone(&shifts)),
            );
        });
        let mut shifts: Vec<_> =
            shifts.lock().iter().map(|(began, ended)| (*began, ended.unwrap())).collect();
        shifts.sort();
        for pair in shifts.windows(2) {
            prop_assert!(pair[0].1 <= pair[1].0, "{:?} and {:?}", pair[0], pair[1]);
        }
    }
}

/// Two releases in one namespace.
#[tokio::test(start_paused = true)]
async fn candidates_for_leases_of_two_names_do_not_wait_for_each_other() {
    let api = ApiServer::default();
    let candidate = |name: &str| {
        let leases: Api<Lease> = Api::namespaced(api.client(), NAMESPACE);
        Candidate::new(leases, name.to_owned(), format!("{name}-1"))
    };
    let (mut one, mut other) = (candidate("a-operator"), candidate("b-operator"));
    assert_eq!(one.attempt().await, Attempt::Held);
    assert_eq!(other.attempt().await, Attempt::Held);
    assert_eq!(one.attempt().await, Attempt::Held, "it renews its own");
    let names: Vec<_> = api
        .all("leases")
        .iter()
        .map(|it| it["metadata"]["name"].clone())
        .collect();
    assert_eq!(names, ["a-operator", "b-operator"]);
}
