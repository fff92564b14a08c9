//! Labs: namespaces, hosts, probes and expectations.
