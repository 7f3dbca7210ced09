//! The process as a service: logging, signals, systemd.
