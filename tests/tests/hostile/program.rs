//! The handler programs, one for each language.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use penstock_tests::languages::{self, root};
use penstock_tests::process::{Program, find_binary};

use crate::table::{Language, Row};

/// Longest time to build a program, and to have it print its list.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(Clone)]
/// A handler program: the path, its first arguments and its variables.
pub struct HandlerProgram {
    language: Language,
    path: PathBuf,
    arguments: Vec<PathBuf>,
    variables: Vec<(&'static str, PathBuf)>,
}

/// The program in Java: an executable that builds the handler if need be, and runs it.
const JAVA: &str = "tests/hostile/java/handler";

/// Returns `true` if there is a program of a language.
pub fn is_there(language: Language) -> bool {
    language != Language::Java || root().join(JAVA).exists()
}

/// Makes the program of a language.
pub async fn of(language: Language) -> Result<HandlerProgram, Box<dyn Error>> {
    let source = root().join("tests/hostile");
    let program = |path: PathBuf, arguments: Vec<PathBuf>| HandlerProgram {
        language,
        path,
        arguments,
        variables: Vec::new(),
    };
    let http = source.join("http/handler.py");
    Ok(match language {
        Language::Python => {
            let mut python = program(
                languages::python().await?,
                vec![source.join("python/handler.py")],
            );
            python
                .variables
                .push(("PYTHONPATH", root().join("sdk/python")));
            python
        }
        Language::Go => program(built_in_go(&source.join("go")).await?, Vec::new()),
        Language::Node => program(
            languages::node().await?,
            vec![source.join("node/handler.mjs")],
        ),
        Language::Rust => program(find_binary("penstock-test-hostile")?, Vec::new()),
        Language::Raw => program(find_binary("penstock-test-hostile-raw")?, Vec::new()),
        Language::Java => program(root().join(JAVA), Vec::new()),
        Language::Http => program("python3".into(), vec![http, "http".into()]),
        Language::BatchHttp => program("python3".into(), vec![http, "batch-http".into()]),
    })
}

/// Builds the program in Go next to those of the workspace. Go itself sees to it that it is
/// built once.
async fn built_in_go(source: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let tests = find_binary("penstock-test-hostile")?;
    let binary = tests.with_file_name("penstock-test-hostile-go");
    let build = Program::new(languages::go().await?)
        .args(["build", "-o"])
        .arg(&binary)
        .arg(".")
        .current_dir(source)
        .start()?;
    match build.wait(LIMIT).await?.success() {
        true => Ok(binary),
        false => Err(build.tail().into()),
    }
}

impl HandlerProgram {
    /// The program, about to be started.
    pub fn program(&self) -> Program {
        let program = Program::new(&self.path).args(&self.arguments);
        let variables = self.variables.iter();
        variables.fold(program, |program, (name, value)| program.env(name, value))
    }

    /// Holds the behaviours that the program knows against the table.
    pub async fn knows(&self, rows: &[Row]) -> Result<(), Box<dyn Error>> {
        let list = self.program().arg("--list").start()?;
        let status = list.wait(LIMIT).await?;
        let mut known: Vec<_> = list.lines().into_iter().map(|line| line.text).collect();
        let mut wanted: Vec<_> = rows
            .iter()
            .filter(|row| row.is_of(self.language))
            .map(|row| row.name.clone())
            .collect();
        known.sort();
        wanted.sort();
        let more = |these: &[String], than: &[String]| {
            let more = these.iter().filter(|name| !than.contains(name));
            more.cloned().collect::<Vec<_>>()
        };
        match status.success() && known == wanted {
            true => Ok(()),
            false => Err(format!(
                "the program of {:?} ({status}) lacks {:?}, and the table {:?}",
                self.language,
                more(&wanted, &known),
                more(&known, &wanted)
            )
            .into()),
        }
    }
}
