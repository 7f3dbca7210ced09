//! Wiring: builds every task and connects them.
