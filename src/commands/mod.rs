//! One file per command, and the registry.
