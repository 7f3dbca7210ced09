//! Runs commands: admission policy, batches, answers, counters.
