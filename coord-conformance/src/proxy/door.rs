//! Where connections come in.

use std::{
    io,
    net::{Ipv4Addr, TcpListener as Listener},
    sync::{Arc, mpsc::Sender},
};

use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    sync::mpsc::UnboundedReceiver,
};

use super::{Shared, link::link};

/// What the owner of a proxy wants of its thread.
pub(super) enum Order {
    /// Nobody listens any more.
    Close(Sender<io::Result<()>>),
    /// Somebody does, if nobody did.
    Open(Sender<io::Result<()>>),
    End,
}

pub(super) struct Door {
    runtime: Runtime,
    port: u16,
    listener: Option<TcpListener>,
    orders: UnboundedReceiver<Order>,
    shared: Arc<Shared>,
    taken: u64,
}

impl Door {
    pub(super) fn open(port: u16, orders: UnboundedReceiver<Order>, shared: Arc<Shared>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let mut door = Self { runtime, port, listener: None, orders, shared, taken: 0 };
        door.listen()?;
        Ok(door)
    }

    fn listen(&mut self) -> io::Result<()> {
        if self.listener.is_none() {
            let listener = Listener::bind((Ipv4Addr::LOCALHOST, self.port))?;
            listener.set_nonblocking(true)?;
            let _inside = self.runtime.enter();
            self.listener = Some(TcpListener::from_std(listener)?);
        }
        Ok(())
    }

    /// Until it is told to end. The connections end with it.
    pub(super) fn run(mut self) {
        loop {
            let next = self.runtime.block_on(next(&self.listener, &mut self.orders));
            match next {
                Next::Client(Ok((client, _))) => {
                    self.taken += 1;
                    let link = link(client, self.taken, Arc::clone(&self.shared));
                    self.runtime.spawn(link);
                }
                // The client is gone again.
                Next::Client(Err(_)) => {}
                Next::Order(Order::Close(done)) => {
                    self.listener = None;
                    let _ = done.send(Ok(()));
                }
                Next::Order(Order::Open(done)) => {
                    let _ = done.send(self.listen());
                }
                Next::Order(Order::End) => return,
            }
        }
    }
}

enum Next {
    Client(io::Result<(tokio::net::TcpStream, std::net::SocketAddr)>),
    Order(Order),
}

async fn next(listener: &Option<TcpListener>, orders: &mut UnboundedReceiver<Order>) -> Next {
    let client = async {
        match listener {
            Some(listener) => listener.accept().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        order = orders.recv() => Next::Order(order.unwrap_or(Order::End)),
        client = client => Next::Client(client),
    }
}
