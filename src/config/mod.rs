//! Configuration: agent.properties, typed and lossless.
