//! From the command line to a running process.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::{Builder, LocalOptions};

use super::config::{self, Config, EXIT_USAGE};
use crate::application::{self, Application};
use crate::store::Store;

/// How long a Redis that is only checked may take for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// An application, or what is wrong with what stands for it and what would be right.
type Made = Result<Arc<dyn Application>, String>;

/// What an executable can run.
pub struct Applications<'a> {
    /// `--application` where it is left out.
    pub default: &'static str,
    /// From the manifest's `spec.application` to the application.
    pub make: &'a dyn Fn(&str) -> Made,
}

/// Runs a container process with an application of yours: the `main` of an executable that a manifest names as `spec.application.custom.command`.
///
/// It takes the flags of `sipcluster-container` (`--help` lists them) and does all that it does. `make` gets `spec.application.custom.options`,
/// or `{}` if there are none; its error says what is wrong with them. Wrong options and flags end the process with exit code 64 before a port
/// is bound.
pub fn run<O: DeserializeOwned, A: Application>(make: impl Fn(O) -> Result<A, String>) -> ExitCode {
    start(&Applications {
        default: r#"{"custom": {}}"#,
        make: &|text| Ok(Arc::new(make(custom(text)?)?)),
    })
}

/// Runs a container process with the built-in application that the manifest names.
pub fn run_built_in() -> ExitCode {
    start(&BUILT_IN)
}

/// The applications that the manifest names by a word of its own.
pub const BUILT_IN: Applications<'static> = Applications {
    default: r#"{"answer": {}}"#,
    make: &application::from_json,
};

/// The options of `{"custom": {"command": .., "options": OPTIONS}}`.
fn custom<O: DeserializeOwned>(text: &str) -> Result<O, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Named {
        custom: Custom,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Custom {
        /// This executable: whoever starts it has read it.
        #[serde(default, rename = "command")]
        _command: Option<String>,
        #[serde(default)]
        options: serde_json::Map<String, Value>,
    }
    let named: Named =
        serde_json::from_str(text).map_err(|error| format!("{error}; give {{\"custom\": {{\"options\": {{}}}}}}"))?;
    serde_json::from_value(Value::Object(named.custom.options)).map_err(|error| error.to_string())
}

fn start(applications: &Applications<'_>) -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("--check-application") => return check(applications, &arguments.next().unwrap_or_default()),
        Some("--check-redis") => return check_redis(),
        _ => {}
    }
    let config = Config::from_process(applications);
    admin::logging::init(config.log_format);
    let runtime = match Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(super::live(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Only says whether the application can be made, so that `sipcluster up` can ask before it starts anything.
fn check(applications: &Applications<'_>, application: &str) -> ExitCode {
    match (applications.make)(application) {
        Ok(_) => ExitCode::SUCCESS,
        Err(wrong) => {
            eprintln!("{wrong}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Only says whether the Redis that the environment names can be reached, so that `sipcluster up` can ask before it starts anything.
fn check_redis() -> ExitCode {
    let place = config::redis_of_environment().unwrap_or_else(|invalid| {
        eprintln!("{invalid}");
        std::process::exit(EXIT_USAGE.into());
    });
    let cluster = std::env::var("SIPCLUSTER_CLUSTER").unwrap_or_default();
    let reached = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
        .and_then(|runtime| {
            let reached = runtime.block_on(Store::new(place, &cluster, PATIENCE, 0).time());
            // A name server that does not answer is not waited for.
            runtime.shutdown_background();
            reached.map_err(|lost| lost.to_string())
        });
    match reached {
        Ok(_) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Options {
        seconds: u32,
    }

    impl Default for Options {
        fn default() -> Self {
            Self { seconds: 60 }
        }
    }

    #[test]
    fn options_are_what_stands_below_custom() {
        let given = custom(r#"{"custom": {"command": "./x", "options": {"seconds": 7}}}"#);
        assert_eq!(given, Ok(Options { seconds: 7 }));
        assert_eq!(custom(r#"{"custom": {"command": "./x"}}"#), Ok(Options::default()));
    }

    #[test]
    fn wrong_options_say_what_would_be_right() {
        for (text, hint) in [
            (r#"{"custom": {"options": {"second": 7}}}"#, "expected `seconds`"),
            (r#"{"custom": {"options": {"seconds": "x"}}}"#, "expected u32"),
            (r#"{"answer": {}}"#, "expected `custom`"),
            ("{}", r#"give {"custom": {"options": {}}}"#),
        ] {
            let wrong = custom::<Options>(text).expect_err("wrong");
            assert!(wrong.contains(hint), "{wrong}");
        }
    }
}
