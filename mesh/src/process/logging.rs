//! Log lines on stderr: for people, or one JSON object a line.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;
use crate::process::Fault;

/// Words that set the level of Paceline's own lines.
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// What is shown of the libraries with any of those words. These three warn of what is usual in a cluster: that nobody
/// else is there yet, that a message came twice, that a peer went without a word.
const LIBRARIES: &str = "warn,libp2p_kad=error,libp2p_gossipsub=error,yamux=error";

/// The filter that a `--log-level` stands for.
pub(crate) fn filter(level: &str) -> Result<EnvFilter, String> {
    let level = level.trim().to_ascii_lowercase();
    let directives = match level.as_str() {
        // As other systems' LOG_LEVEL spells it.
        "warning" => format!("{LIBRARIES},paceline=warn"),
        "off" => "off".to_owned(),
        word if LEVELS.contains(&word) => format!("{LIBRARIES},paceline={word}"),
        filters if filters.contains('=') || filters.contains(',') => filters.to_owned(),
        other => return Err(format!("`{other}` is none of error, warn, info, debug, trace")),
    };
    EnvFilter::try_new(directives).map_err(|e| e.to_string())
}

/// Changes the filter of the installed subscriber.
pub(super) struct LogLevel(Box<dyn Fn(EnvFilter) -> Result<(), String> + Send>);

impl LogLevel {
    /// What a `--log-level` stands for, from now on.
    pub(super) fn set(&self, level: &str) -> Result<(), String> {
        self.0(filter(level)?)
    }
}

/// Installs the subscriber; a second call in one process (tests) changes nothing.
pub(super) fn init(format: LogFormat, level: &str) -> Result<LogLevel, Fault> {
    let filter = filter(level).map_err(|e| Fault::user(format!("--log-level: {e}")))?;
    // Who reads for the first time has no use for module names; who digs deeper has.
    let modules = filter.max_level_hint().is_none_or(|level| level > LevelFilter::INFO);
    // A reader of stderr that is gone (a closed terminal, `| head`) must not end the process: by itself the subscriber
    // would tell of it on stderr, and panic.
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).log_internal_errors(false);
    Ok(match format {
        LogFormat::Pretty => {
            let lines = lines.with_target(modules).with_ansi(std::io::stderr().is_terminal());
            let lines = lines.with_env_filter(filter).with_filter_reloading();
            let handle = lines.reload_handle();
            drop(lines.try_init());
            LogLevel(Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())))
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false);
            let lines = lines.with_env_filter(filter).with_filter_reloading();
            let handle = lines.reload_handle();
            drop(lines.try_init());
            LogLevel(Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())))
        }
    })
}
