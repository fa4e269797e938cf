//! Our own log, on standard error.

use crate::config::LogLevel;
use rustix::termios::isatty;
use std::io;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime, uptime};

/// Begins logging for the rest of the process, with the seconds since then; a second call changes nothing.
pub(super) fn start(level: LogLevel) {
    start_with(level, uptime());
}

/// The same with dates, in UTC, for what runs for longer than anybody remembers its beginning.
pub(super) fn start_dated(level: LogLevel) {
    start_with(level, SystemTime);
}

fn start_with(level: LogLevel, timer: impl FormatTime + Send + Sync + 'static) {
    let level = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(isatty(io::stderr()) && !no_color)
        .with_timer(timer);
    // Fails only if somebody else, like a test, has set up logging already.
    let _ = subscriber.try_init();
}
