//! `penstock check`, the operator's validation and the API server agree on every row of
//! tests/agreement, and what all accept makes objects that the API server accepts too.

use futures_util::{StreamExt, TryStreamExt, stream};
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use kube::client::Client;
use kube::core::GroupVersionKind;
use penstock_crds::manifest::{self, Content, Problem};
use penstock_operator::build::{self, Blueprint, Object, RuntimeImage};
use penstock_operator::key::Key;
use penstock_tests::kubernetes::ControlPlane;
use serde_json::Value;

use crate::Outcome;
use crate::refusals::refusal;
use crate::scene::shared;

#[path = "../../agreement/rows.rs"]
mod rows;

use rows::{Manifest, Row, rows};

/// Requests, or programs, at a time.
const AT_ONCE: usize = 4;

/// The least number of rows.
const MIN_ROWS: usize = 500;

/// The refusal of `penstock check`, as it prints it; nothing if it accepts the text.
fn checked(text: &str) -> Option<String> {
    let refusals: Vec<String> = manifest::read(text)
        .into_iter()
        .filter_map(|document| match document.content {
            Content::Refused(refusal) => Some(match refusal.problem {
                Problem::Violations(violations) => violations.to_string(),
                problem @ Problem::Syntax { .. } => problem.to_string(),
            }),
            Content::Consumer(_) | Content::Other(_) => None,
        })
        .collect();
    (!refusals.is_empty()).then(|| refusals.join("\n"))
}

/// Compares one verdict with the expected one.
fn compare(who: &str, found: Option<&str>, expected: Option<&[&String]>) -> Result<(), String> {
    match (found, expected) {
        (None, None) => Ok(()),
        (Some(said), None) => Err(format!("{who} refuses it: {said}")),
        (None, Some(_)) => Err(format!("{who} accepts it")),
        (Some(said), Some(words)) => match words.iter().find(|words| !said.contains(**words)) {
            Some(missing) => Err(format!("{who} does not say {missing:?}: {said}")),
            None => Ok(()),
        },
    }
}

fn check_row(row: &Row, manifest: &Manifest) -> Result<(), String> {
    let words = row.refused.as_ref();
    let words: Option<Vec<&String>> = words.map(|both| both.iter().chain(&row.check).collect());
    let said = checked(&manifest.text());
    compare("penstock check", said.as_deref(), words.as_deref())?;
    // As the operator reads it from the API server.
    if let Manifest::Object(object) = manifest {
        let read = manifest::read_object(object.clone());
        let said = read.err().map(|violations| violations.to_string());
        compare("the operator", said.as_deref(), words.as_deref())?;
    }
    Ok(())
}

/// The API server's refusal in its own words, with the causes.
async fn asked(
    client: &Client,
    control_plane: &'static ControlPlane,
    manifest: &Manifest,
) -> Result<Option<String>, String> {
    match manifest {
        Manifest::Object(object) => {
            let status = refusal(client, object).await.map_err(|it| it.to_string())?;
            Ok(status.map(|status| {
                let causes = status.details.iter().flat_map(|details| &details.causes);
                let causes = causes.map(|cause| format!("\n{}: {}", cause.field, cause.message));
                status.message.clone() + &causes.collect::<String>()
            }))
        }
        Manifest::Text(text) => {
            let text = text.clone();
            let create = move || control_plane.try_create(&text);
            let created = tokio::task::spawn_blocking(create).await;
            let created = created.map_err(|error| error.to_string())?;
            Ok(created.err().map(|error| error.to_string()))
        }
    }
}

async fn ask_row(
    client: &Client,
    control_plane: &'static ControlPlane,
    row: &Row,
    manifest: &Manifest,
) -> Result<(), String> {
    let words = row.server.as_ref().or(row.refused.as_ref());
    let words: Option<Vec<&String>> = words.map(|words| words.iter().collect());
    let expected = words.as_deref().filter(|_| row.is_refused_by_server());
    let said = asked(client, control_plane, manifest).await?;
    compare("the API server", said.as_deref(), expected)?;
    match (manifest, &row.refused) {
        (Manifest::Object(object), None) => create_objects(client, object).await,
        _ => Ok(()),
    }
}

/// The objects of a consumer in the namespace `default`.
fn objects(object: &Value) -> Result<Vec<Object>, String> {
    let read = manifest::read_object(object.clone()).map_err(|it| it.to_string())?;
    let name = read.resource.metadata.name.clone().unwrap_or_default();
    Ok(build::objects(&Blueprint {
        key: &Key::new("default", &name),
        uid: "5b1c2f5e-2a84-4c7b-9d55-0c8d0e3e6a10",
        resource: &read.resource,
        consumer: &read.validated,
        secrets: "s",
        runtime: &RuntimeImage {
            image: "images.example.com/penstock-runtime:0.1.0".into(),
            pull_policy: "IfNotPresent".into(),
            pull_secrets: Vec::new(),
        },
        running: None,
        protocols: None,
    }))
}

async fn create_objects(client: &Client, object: &Value) -> Result<(), String> {
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    for object in objects(object)? {
        let made: DynamicObject =
            serde_json::from_value(object.body).map_err(|error| error.to_string())?;
        let types = made.types.clone().unwrap_or_default();
        let kind = GroupVersionKind::try_from(&types).map_err(|error| error.to_string())?;
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), "default", &ApiResource::from_gvk(&kind));
        if let Err(error) = api.create(&params, &made).await {
            return Err(format!("its {} is refused: {error}", types.kind));
        }
    }
    Ok(())
}

#[test]
fn the_tables_are_large_and_each_row_has_a_name_and_one_manifest() -> Outcome {
    let rows = rows()?;
    assert!(rows.len() >= MIN_ROWS, "{}", rows.len());
    for pair in rows.windows(2) {
        assert_ne!(pair[0].name, pair[1].name);
    }
    for row in &rows {
        let ways = [
            !row.patch.is_null() || !row.long.is_empty(),
            !row.edit.is_empty(),
            row.text.is_some(),
        ];
        let given = ways.into_iter().filter(|given| *given).count();
        assert_eq!(given, 1, "{}", row.name);
        let is_refused = row.refused.is_some();
        assert!(is_refused || row.check.is_empty(), "{}", row.name);
        assert!(is_refused || row.only_check.is_none(), "{}", row.name);
    }
    Ok(())
}

#[tokio::test]
async fn check_the_operator_and_the_api_server_agree_on_every_row() -> Outcome {
    let control_plane = shared().await?;
    let client = control_plane.client().await?;
    let rows = rows()?;
    let verdicts = stream::iter(&rows).map(|row| {
        let client = &client;
        async move {
            let manifest = row.manifest();
            let verdicts = [
                check_row(row, &manifest),
                ask_row(client, control_plane, row, &manifest).await,
            ];
            let failures = verdicts.into_iter().filter_map(Result::err);
            let failures = failures.map(|failure| format!("{}: {failure}", row.name));
            Ok::<_, kube::Error>(failures.collect::<Vec<_>>())
        }
    });
    let failures: Vec<Vec<String>> = verdicts.buffered(AT_ONCE).try_collect().await?;
    let failures = failures.concat();
    assert!(
        failures.is_empty(),
        "{}\n{}",
        failures.join("\n"),
        failures.len()
    );
    Ok(())
}
