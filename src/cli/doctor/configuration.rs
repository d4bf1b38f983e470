//! Configuration check: whether the file and the environment are valid.

use std::path::Path;

use super::check::Check;
use super::remedies;
use crate::cli::Failure;
use crate::config::env::Environment;
use crate::config::{ConfigError, DEFAULT_NAME, RouterConfig};
use crate::router::web::Web;

/// Returns the configuration `laneway run` would use, or the defaults if it is invalid.
pub(super) fn check(file: Option<&Path>) -> (RouterConfig, Check) {
    match read(file) {
        Ok(config) => {
            let from = match &config.file {
                Some(path) => format!("{} and the environment are valid", path.display()),
                None => "the environment is valid; no file is named".to_owned(),
            };
            (config, Check::good("configuration", from))
        }
        Err(error) => {
            let check = Check::missing("configuration", error.to_string(), remedies::CONFIGURATION);
            (RouterConfig::named(DEFAULT_NAME), check)
        }
    }
}

fn read(file: Option<&Path>) -> Result<RouterConfig, Failure> {
    let environment = Environment::of_process()?;
    let config = match RouterConfig::for_run(file, &environment) {
        // The machine can be checked before there is a configuration.
        Err(ConfigError::Nothing) => RouterConfig::for_interface(DEFAULT_NAME, &environment),
        read => read,
    }?;
    config.metrics_config.as_deref().map(Web::read).transpose()?;
    Ok(config)
}
