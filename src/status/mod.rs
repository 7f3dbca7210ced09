//! What `agent --status` shows: snapshot, board, socket, checks.
