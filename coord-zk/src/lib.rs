//! Coordination between processes of any hosts through a ZooKeeper ensemble: the ZooKeeper backend of `coord`.
