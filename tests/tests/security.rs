//! Encrypted and authenticated connections, with the credentials in mounted Secrets.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Duration;

use penstock_tests::groups;
use penstock_tests::kafka::{Kafka, unsecured_token};
use penstock_tests::produce::Produce;
use penstock_tests::recorder::{Recorder, Reply};
use penstock_tests::{Consumer, Launch, Manifest, topics};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

/// Every message is refused, so that dead letters need the connection too.
async fn broker() -> Result<&'static Kafka, Box<dyn Error>> {
    static BROKER: OnceCell<Kafka> = OnceCell::const_new();
    let start = || {
        Kafka::builder()
            .tls()
            .sasl_user("ann", "correct horse")
            .start()
    };
    Ok(BROKER.get_or_try_init(start).await?)
}

struct Scene {
    kafka: &'static Kafka,
    topic: String,
    dead: String,
    group: String,
    recorder: Recorder,
    secrets: TempDir,
}

impl Scene {
    async fn new() -> Result<Self, Box<dyn Error>> {
        let kafka = broker().await?;
        let topic = topics::create(kafka.bootstrap(), "security", 1).await?;
        let dead = topics::create(kafka.bootstrap(), "security-dead", 1).await?;
        Produce::to(&topic)
            .count(10)
            .send(kafka.bootstrap())
            .await?;
        let recorder = Recorder::start()?;
        recorder.behave(|delivery| match delivery.position.offset {
            5 => Reply::status(422),
            _ => Reply::ok(),
        });
        let files = kafka.tls_files().ok_or("no TLS")?;
        let secrets = TempDir::with_prefix("penstock-secrets-")?;
        put(secrets.path(), "cluster-ca", "ca.crt", fs::read(&files.ca)?)?;
        put(
            secrets.path(),
            "ann",
            "user.crt",
            fs::read(&files.client_certificate)?,
        )?;
        put(
            secrets.path(),
            "ann",
            "user.key",
            fs::read(&files.client_key)?,
        )?;
        put(
            secrets.path(),
            "ann",
            "password",
            b"correct horse\n".to_vec(),
        )?;
        Ok(Self {
            kafka,
            topic,
            dead,
            group: topics::unique("test.security"),
            recorder,
            secrets,
        })
    }

    fn manifest(&self, bootstrap: Option<String>) -> Manifest {
        let bootstrap = bootstrap.unwrap_or_default();
        Manifest::in_order(&bootstrap, &self.group, &self.topic)
            .handler(&self.recorder)
            .set("/delivery/onFailure", "DeadLetter")
            .set("/delivery/deadLetterTopic", self.dead.as_str())
    }

    fn tls(&self) -> Value {
        json!({"trustedCertificates": [{"secretName": "cluster-ca", "certificate": "ca.crt"}]})
    }

    fn start(&self, manifest: &Manifest) -> Result<Consumer, Box<dyn Error>> {
        Ok(Launch::new(manifest).secrets(self.secrets.path()).start()?)
    }

    /// It consumes, commits and writes dead letters over this connection.
    async fn works(&self, manifest: Manifest) -> Outcome {
        let consumer = self.start(&manifest)?;
        let bootstrap = self.kafka.bootstrap();
        groups::wait_for_committed(bootstrap, &self.group, &self.topic, 10, SOON)
            .await
            .map_err(|error| format!("{error}\n{}", consumer.tail()))?;
        assert!(consumer.stop(SOON).await?.success(), "{}", consumer.tail());
        assert_eq!(self.recorder.handled(), 9);
        assert_eq!(topics::read_all(bootstrap, &self.dead).await?.len(), 1);
        Ok(())
    }

    /// It ends with the metadata failure, and its log tells the cause.
    async fn is_refused(&self, manifest: Manifest, cause: &str) -> Outcome {
        let consumer = self.start(&manifest)?;
        assert_eq!(
            consumer.wait(SOON).await?.code(),
            Some(1),
            "{}",
            consumer.tail()
        );
        let failed =
            consumer.count("code=BrokersUnreachable error=failed getting metadata from 127.0.0.1:");
        assert_eq!(failed, 1, "{}", consumer.tail());
        assert!(consumer.count(cause) >= 1, "{}", consumer.tail());
        for line in consumer.lines() {
            assert!(
                !line.text.contains("horse"),
                "a password in the log: {}",
                line.text
            );
        }
        assert_eq!(self.recorder.count(), 0);
        Ok(())
    }
}

/// Writes an entry of a Secret as it is mounted.
fn put(secrets: &Path, secret: &str, entry: &str, text: Vec<u8>) -> Outcome {
    let directory = secrets.join(secret);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join(entry), text)?;
    Ok(())
}

fn scram(mechanism: &str) -> Value {
    json!({
        "type": mechanism,
        "username": "ann",
        "passwordSecret": {"secretName": "ann", "password": "password"},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_an_authority_of_its_own() -> Outcome {
    let scene = Scene::new().await?;
    let manifest = scene
        .manifest(scene.kafka.tls_bootstrap())
        .set("/kafka/tls", scene.tls());
    scene.works(manifest).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_client() -> Outcome {
    let scene = Scene::new().await?;
    let pair = json!({
        "type": "tls",
        "certificateAndKey": {
            "secretName": "ann",
            "certificate": "user.crt",
            "key": "user.key",
        },
    });
    let manifest = scene
        .manifest(scene.kafka.mutual_tls_bootstrap())
        .set("/kafka/tls", scene.tls())
        .set("/kafka/authentication", pair);
    scene.works(manifest).await
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_by_every_mechanism() -> Outcome {
    for mechanism in ["scram-sha-512", "scram-sha-256", "plain"] {
        let scene = Scene::new().await?;
        let manifest = scene
            .manifest(scene.kafka.sasl_bootstrap())
            .set("/kafka/tls", scene.tls())
            .set("/kafka/authentication", scram(mechanism));
        scene
            .works(manifest)
            .await
            .map_err(|error| format!("{mechanism}: {error}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token() -> Outcome {
    let scene = Scene::new().await?;
    let token = unsecured_token("ann", Duration::from_secs(600));
    put(scene.secrets.path(), "ann", "token", token.into_bytes())?;
    let manifest = scene
        .manifest(scene.kafka.sasl_bootstrap())
        .set("/kafka/tls", scene.tls())
        .set(
            "/kafka/authentication",
            json!({"type": "oauth", "accessToken": {"secretName": "ann", "key": "token"}}),
        );
    scene.works(manifest).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told() -> Outcome {
    let scene = Scene::new().await?;
    put(
        scene.secrets.path(),
        "ann",
        "password",
        b"wrong horse".to_vec(),
    )?;
    let manifest = scene
        .manifest(scene.kafka.sasl_bootstrap())
        .set("/kafka/tls", scene.tls())
        .set("/kafka/authentication", scram("scram-sha-512"));
    scene.is_refused(manifest, "Authentication failed").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_not_trusted_is_told() -> Outcome {
    let scene = Scene::new().await?;
    let manifest = scene
        .manifest(scene.kafka.tls_bootstrap())
        .set("/kafka/tls", json!({}));
    scene
        .is_refused(manifest, "certificate verify failed")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_missing_is_told_at_once() -> Outcome {
    let scene = Scene::new().await?;
    fs::remove_file(scene.secrets.path().join("ann/password"))?;
    let manifest = scene
        .manifest(scene.kafka.sasl_bootstrap())
        .set("/kafka/tls", scene.tls())
        .set("/kafka/authentication", scram("scram-sha-512"));
    let consumer = scene.start(&manifest)?;
    assert_eq!(consumer.wait(SOON).await?.code(), Some(1));
    let expected = "code=SecretNotFound error=Secret 'ann' has no readable entry 'password'";
    assert_eq!(consumer.count(expected), 1, "{}", consumer.tail());
    assert_eq!(scene.recorder.count(), 0);
    Ok(())
}
