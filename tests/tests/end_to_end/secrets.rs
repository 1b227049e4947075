//! Credentials that a consumer has from Secrets.

use std::collections::BTreeSet;
use std::error::Error;

use penstock_tests::kafka::Kafka;
use penstock_tests::produce::Produce;
use penstock_tests::{Manifest, topics};
use serde_json::json;
use tokio::sync::OnceCell;

use crate::{LIMIT, Outcome, Scene};

const PASSWORD: &str = "correct horse";

/// A broker of its own, with TLS and users.
async fn secured(scene: &Scene) -> Result<&'static Kafka, Box<dyn Error>> {
    static SECURED: OnceCell<Kafka> = OnceCell::const_new();
    let start = || {
        Kafka::builder()
            .host(scene.cluster.host().to_string())
            .tls()
            .sasl_user("ann", PASSWORD)
            .sasl_user("bob", PASSWORD)
            .start()
    };
    Ok(SECURED.get_or_try_init(start).await?)
}

/// A consumer of a secured broker, and the topic that it reads there.
struct Secured<'a> {
    scene: &'a Scene,
    kafka: &'static Kafka,
    topic: String,
    user: &'static str,
}

impl<'a> Secured<'a> {
    async fn new(scene: &'a Scene, user: &'static str) -> Result<Self, Box<dyn Error>> {
        let kafka = secured(scene).await?;
        let authority = kafka.tls_files().ok_or("no TLS")?.ca.display();
        let file = format!("--from-file=ca.crt={authority}");
        scene
            .namespace
            .run_kubectl(["create", "secret", "generic", "cluster-ca", &file])?;
        Ok(Self {
            scene,
            kafka,
            topic: topics::create(kafka.bootstrap(), "secured", 1).await?,
            user,
        })
    }

    fn manifest(&self) -> Manifest {
        let bootstrap = self.kafka.sasl_bootstrap().unwrap_or_default();
        let group = format!("shop.{}", self.topic);
        Manifest::fast(&bootstrap, &group, &self.topic, 2)
            .handler_in_pod(self.scene.cluster.host(), &self.scene.recorder)
            .set(
                "/kafka/tls/trustedCertificates",
                json!([{"secretName": "cluster-ca", "certificate": "ca.crt"}]),
            )
            .set(
                "/kafka/authentication",
                json!({
                    "type": "scram-sha-512",
                    "username": self.user,
                    "passwordSecret": {"secretName": self.user, "password": "password"},
                }),
            )
    }

    fn put_password(&self, password: &str) -> Outcome {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self.user},
            "stringData": {"password": password},
        });
        self.scene.namespace.apply(&secret.to_string())?;
        Ok(())
    }

    async fn handles(&self, first: u64, count: usize) -> Outcome {
        let messages = Produce::to(&self.topic).first_seq(first);
        messages
            .count(u64::try_from(count)?)
            .send(self.kafka.bootstrap())
            .await?;
        let all = usize::try_from(first)? + count;
        self.scene.recorder.wait_for_handled(all, LIMIT).await?;
        Ok(())
    }

    /// How often a watch of the operator was cut off.
    fn interruptions(&self) -> Result<usize, Box<dyn Error>> {
        let installation = self.scene.installation;
        let log = installation.log(&installation.leader()?)?;
        Ok(log.matches("was interrupted").count())
    }

    fn pods(&self) -> Result<BTreeSet<String>, Box<dyn Error>> {
        Ok(self.scene.pods()?.into_iter().map(|pod| pod.uid).collect())
    }
}

#[tokio::test]
async fn a_missing_secret_and_a_wrong_password_are_told_and_a_right_one_starts_the_consumer()
-> Outcome {
    let scene = Scene::new("secrets").await?;
    let secured = Secured::new(&scene, "ann").await?;
    scene.namespace.apply(&secured.manifest().named("orders"))?;
    let resolved = scene
        .wait_for_reason("TopicsResolved", "SecretNotFound")
        .await?;
    assert_eq!(resolved.status, "Unknown");
    assert_eq!(
        resolved.message,
        "Secret 'ann' does not exist in this namespace; create it, or correct its name in the \
         manifest"
    );

    secured.put_password("wrong horse")?;
    let resolved = scene
        .wait_for_reason("TopicsResolved", "AuthenticationFailed")
        .await?;
    assert_eq!(resolved.status, "Unknown");
    assert!(
        resolved.message.contains("Authentication failed"),
        "{resolved:?}"
    );
    assert!(
        resolved.message.ends_with(
            "correct spec.kafka.authentication, spec.kafka.tls or the Secrets that they name"
        ),
        "{resolved:?}"
    );
    assert!(!resolved.message.contains("horse"), "{resolved:?}");
    let nothing: [String; 0] = [];
    assert_eq!(scene.names("deployments")?, nothing);

    secured.put_password(PASSWORD)?;
    secured.handles(0, 10).await?;
    let resolved = scene.condition("TopicsResolved")?;
    assert_eq!(resolved.reason, "TopicsFound");
    Ok(())
}

#[tokio::test]
async fn a_new_password_replaces_the_pods_and_a_new_label_of_its_secret_does_not() -> Outcome {
    let scene = Scene::new("rotation").await?;
    let secured = Secured::new(&scene, "bob").await?;
    secured.put_password(PASSWORD)?;
    let interruptions = secured.interruptions()?;
    scene.run(&secured.manifest()).await?;
    scene.wait_until_complete().await?;
    let first = secured.pods()?;
    let generation = scene.field("deployment/orders", "/metadata/generation")?;

    scene
        .namespace
        .run_kubectl(["label", "secret", "bob", "team=billing"])?;
    scene.wait_for_a_look().await?;
    let unchanged = scene.field("deployment/orders", "/metadata/generation")?;
    assert_eq!(unchanged, generation);
    assert_eq!(secured.pods()?, first);

    secured
        .kafka
        .change_password("bob", "battery staple")
        .await?;
    secured.put_password("battery staple")?;
    let rolled = generation.as_u64().ok_or("no generation")? + 1;
    let rolled = format!("jsonpath={{.status.observedGeneration}}={rolled}");
    scene
        .namespace
        .wait_until("deployment/orders", &rolled, LIMIT)
        .await?;
    scene.wait_until_complete().await?;
    let second = secured.pods()?;
    assert_eq!(second.len(), 1);
    assert!(second.is_disjoint(&first), "{second:?}");
    secured.handles(0, 10).await?;
    // TLS to the brokers and TLS to the API server are not in each other's way.
    assert_eq!(secured.interruptions()?, interruptions);
    Ok(())
}
