//! A port in memory.
