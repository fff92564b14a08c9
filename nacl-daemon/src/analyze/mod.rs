//! Exact questions about compiled tables: the smallest fix, and later shadowing and differences.
