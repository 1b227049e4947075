//! `penstock check`, `penstock crd`, `penstock completion`, and the help.

mod common;

use std::fs;
use std::os::unix::fs::symlink;

use common::{Files, Outcome, manifest, penstock, repository, run};
use penstock_tests::process::Program;
use serde_json::{Value, json};

const CONFIG_MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n";

#[tokio::test]
async fn valid_manifests_are_named_and_the_code_is_0() -> Outcome {
    let files = Files::new()?;
    let text = format!("{}---\n{CONFIG_MAP}", manifest("InOrder", ""));
    let path = files.write("good.yaml", text)?;
    let ended = run(penstock().arg("check").arg(&path)).await?;
    let file = path.display();
    assert_eq!(
        ended.out,
        format!(
            "{file}:1: KafkaConsumer 'orders': valid\n{file}:16: ConfigMap 'settings': ignored, not a KafkaConsumer\n1 valid, 1 ignored\n"
        )
    );
    assert_eq!((ended.code(), ended.err.as_str()), (Some(0), ""));
    Ok(())
}

#[tokio::test]
async fn every_example_is_valid() -> Outcome {
    let mut program = penstock().arg("check");
    let mut count = 0;
    for language in fs::read_dir(repository("examples"))? {
        let language = language?.path();
        if language.is_dir() {
            for file in fs::read_dir(language)? {
                let file = file?.path();
                let is_yaml = file.extension().is_some_and(|it| it == "yaml");
                // Others are for kustomize and Argo CD.
                if is_yaml && fs::read_to_string(&file)?.contains("kind: KafkaConsumer") {
                    program = program.arg(file);
                    count += 1;
                }
            }
        }
    }
    let ended = run(program).await?;
    assert_eq!(ended.code(), Some(0), "{}", ended.out);
    assert!(count >= 4);
    assert!(
        ended.out.ends_with(&format!("{count} valid\n")),
        "{}",
        ended.out
    );
    Ok(())
}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once_with_its_line() -> Outcome {
    let files = Files::new()?;
    let bad = manifest(
        "InOrder",
        "  maxConcurrencies: 2\n  delivery: {maxAttempts: many}\n",
    );
    let text = format!("{CONFIG_MAP}---\n{bad}---\n{}", manifest("fast", ""));
    let path = files.write("bad.yaml", text)?;
    let ended = run(penstock().arg("check").arg(&path)).await?;
    let file = path.display();
    let lines: Vec<_> = ended.out.lines().collect();
    assert_eq!(lines.len(), 5, "{}", ended.out);
    assert_eq!(
        lines[1],
        format!("{file}:19: spec.maxConcurrencies: unknown field; did you mean 'maxConcurrency'?")
    );
    assert!(
        lines[2].starts_with(&format!("{file}:20: spec.delivery.maxAttempts: must be ")),
        "{}",
        lines[2]
    );
    assert_eq!(
        lines[3],
        format!(
            "{file}:29: spec.mode: must be one of InOrder, KeyOrdered, Fast; did you mean 'Fast'? (found 'fast')"
        )
    );
    assert_eq!(lines[4], "2 invalid, 1 ignored");
    assert_eq!(ended.code(), Some(1));
    Ok(())
}

#[tokio::test]
async fn json_has_the_documented_shape() -> Outcome {
    let files = Files::new()?;
    let mut spoilt = manifest("InOrder", "");
    spoilt = spoilt.replace("group: billing.orders", "group: orders");
    let text = format!("{spoilt}---\n{CONFIG_MAP}---\na: [\n");
    let bad = files.write("bad.yaml", text)?;
    let good = files.write("good.yaml", manifest("InOrder", ""))?;
    let missing = files.path().join("missing.yaml");
    let program = penstock()
        .args(["check", "--output", "json"])
        .args([&bad, &good, &missing]);
    let ended = run(program).await?;
    let report: Value = serde_json::from_str(&ended.out)?;
    let expected = json!({
        "valid": false,
        "files": [
            {
                "file": bad.display().to_string(),
                "documents": [
                    {
                        "index": 1,
                        "line": 1,
                        "kind": "KafkaConsumer",
                        "name": "orders",
                        "verdict": "Invalid",
                        "errors": [{
                            "line": 6,
                            "path": "spec.group",
                            "value": "orders",
                            "message": "group_id must start with 'SERVICENAME.', followed by the group's name, such as 'billing.orders'",
                        }],
                    },
                    {
                        "index": 2,
                        "line": 16,
                        "kind": "ConfigMap",
                        "name": "settings",
                        "verdict": "Ignored",
                        "errors": [],
                    },
                    {
                        "index": 3,
                        "line": 20,
                        "kind": "KafkaConsumer",
                        "verdict": "Invalid",
                        "errors": [{
                            "line": 21,
                            "column": 1,
                            "message": "did not find expected node content",
                        }],
                    },
                ],
            },
            {
                "file": good.display().to_string(),
                "documents": [{
                    "index": 1,
                    "line": 1,
                    "kind": "KafkaConsumer",
                    "name": "orders",
                    "verdict": "Valid",
                    "errors": [],
                }],
            },
            {
                "file": missing.display().to_string(),
                "error": "there is no such file; correct its path",
                "documents": [],
            },
        ],
        "summary": { "valid": 1, "invalid": 2, "ignored": 1, "unreadable": 1 },
    });
    assert_eq!(report, expected, "{report:#}");
    assert_eq!(ended.code(), Some(2));
    Ok(())
}

#[tokio::test]
async fn files_that_cannot_be_read_are_code_2_and_the_others_are_still_checked() -> Outcome {
    let files = Files::new()?;
    let good = files.write("good.yaml", manifest("InOrder", ""))?;
    let latin = files.write("latin.yaml", b"kind: KafkaConsumer\nname: caf\xe9\n")?;
    let program = penstock().arg("check").args([files.path(), &latin, &good]);
    let ended = run(program).await?;
    assert_eq!(
        ended.err,
        format!(
            "{}: is a directory; name the files in it, such as with *.yaml\n{}: line 2 is not UTF-8; save the file as UTF-8\n",
            files.path().display(),
            latin.display()
        )
    );
    assert!(
        ended.out.ends_with("1 valid, 2 unreadable\n"),
        "{}",
        ended.out
    );
    assert_eq!(ended.code(), Some(2));
    Ok(())
}

#[tokio::test]
async fn standard_input_is_read_for_a_dash() -> Outcome {
    let program = penstock()
        .args(["check", "-"])
        .input(manifest("InOrder", ""));
    let ended = run(program).await?;
    assert_eq!(
        ended.out,
        "<stdin>:1: KafkaConsumer 'orders': valid\n1 valid\n"
    );
    assert_eq!(ended.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn no_consumer_at_all_is_code_1() -> Outcome {
    for text in ["", CONFIG_MAP] {
        let ended = run(penstock().args(["check", "-"]).input(text)).await?;
        let last = ended.out.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("found no KafkaConsumer; a manifest begins with 'apiVersion:"),
            "{}",
            ended.out
        );
        assert_eq!(ended.code(), Some(1));
    }
    Ok(())
}

#[tokio::test]
async fn wrong_arguments_are_code_2() -> Outcome {
    for arguments in [
        &["check"][..],
        &["chek"],
        &["dev"],
        &["dev", "-f", "x", "--exit-when-done"],
        &["dev", "-f", "x", "--brokers", "b:1", "--partitions", "2"],
        &["dev", "-f", "x", "--start-timeout", "soon"],
        &["dev", "-f", "x", "--produce", "y", "--key-separator", ""],
    ] {
        let ended = run(penstock().args(arguments)).await?;
        assert_eq!(ended.code(), Some(2), "{arguments:?}: {}", ended.err);
        assert!(ended.err.starts_with("error: "), "{}", ended.err);
    }
    Ok(())
}

#[tokio::test]
async fn the_crd_is_the_one_in_the_repository() -> Outcome {
    let ended = run(penstock().arg("crd")).await?;
    let committed = fs::read_to_string(repository("crds/kafkaconsumers.yaml"))?;
    assert_eq!(ended.out, committed);
    assert_eq!(ended.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn completion_scripts_know_commands_and_options() -> Outcome {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = run(penstock().args(["completion", shell])).await?;
        assert_eq!(ended.code(), Some(0));
        for word in ["completion", "check", "exit-when-done"] {
            assert!(ended.out.contains(word), "{shell}: {word}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn bash_takes_the_completion_script() -> Outcome {
    let script = run(penstock().args(["completion", "bash"])).await?.out;
    let files = Files::new()?;
    let path = files.write("penstock.bash", script)?;
    let test = format!(
        "source {}; COMP_WORDS=(penstock de); COMP_CWORD=1; _penstock penstock de penstock; echo \"${{COMPREPLY[@]}}\"",
        path.display()
    );
    let ended = run(Program::new("bash").args(["-c", &test])).await?;
    assert_eq!(ended.out, "dev\n", "{}", ended.err);
    Ok(())
}

#[tokio::test]
async fn the_help_shows_examples_and_the_name_by_which_it_was_called() -> Outcome {
    let ended = run(penstock().arg("--help")).await?;
    assert!(ended.out.contains("Usage: penstock <COMMAND>"));
    assert!(
        ended
            .out
            .contains("penstock dev -f consumer.yaml --produce")
    );
    let version = run(penstock().arg("--version")).await?;
    assert_eq!(
        version.out,
        format!("penstock {}\n", env!("CARGO_PKG_VERSION"))
    );

    let files = Files::new()?;
    let plugin = files.path().join("kubectl-penstock");
    symlink(env!("CARGO_BIN_EXE_penstock"), &plugin)?;
    let ended = run(Program::new(&plugin).args(["check", "--help"])).await?;
    assert!(
        ended.out.contains("Usage: kubectl penstock check"),
        "{}",
        ended.out
    );
    Ok(())
}
