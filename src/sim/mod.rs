//! A simulated management server.
