//! Coordination between processes of any hosts through an etcd cluster: the etcd backend of `coord`.
