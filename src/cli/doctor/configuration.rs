//! Whether the environment and the file make sense.

use std::path::Path;

use super::check::Check;
use super::remedies;
use crate::control::config::env::Environment;
use crate::control::config::{ConfigError, RouterConfig};

/// The configuration that `laneway run` would have, or one without any wishes if that has a mistake.
pub(super) fn check(file: Option<&Path>) -> (RouterConfig, Check) {
    match read(file) {
        Ok(config) => {
            let from = match &config.file {
                Some(path) => format!("{} and the environment are sound", path.display()),
                None => "the environment is sound, and names no file".to_owned(),
            };
            (config, Check::good("configuration", from))
        }
        Err(error) => {
            let check = Check::missing("configuration", error.to_string(), remedies::CONFIGURATION);
            (RouterConfig::named("laneway0"), check)
        }
    }
}

fn read(file: Option<&Path>) -> Result<RouterConfig, ConfigError> {
    RouterConfig::for_run(file, &Environment::of_process()?)
}
