//! This node: inventory, statistics, processes.
