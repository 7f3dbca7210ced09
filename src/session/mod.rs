//! One connection to the management server: pure machine, driver, backoff.
