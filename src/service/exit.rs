//! Exit codes. The daemon keeps the Java agent's (mirrors `com.cloud.utils.exception.ExitStatus`).

/// Done, and nothing to report.
pub const OK: u8 = 0;
/// Done, with warnings; for `inventory --diff`: there are differences.
pub const WARNINGS: u8 = 1;
/// Failed.
pub const FAILURE: u8 = 2;
/// The agent is not running (the "not running" of LSB init scripts).
pub const NOT_RUNNING: u8 = 3;
/// The agent cannot be asked.
pub const UNKNOWN: u8 = 4;
/// Wrong usage (`EX_USAGE` of sysexits.h).
pub const USAGE: u8 = 64;
/// The agent could not start (the Java agent's "error").
pub const FATAL: u8 = 67;
