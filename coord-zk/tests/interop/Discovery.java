import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Collection;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.state.ConnectionState;
import org.apache.curator.retry.RetryNTimes;
import org.apache.curator.x.discovery.ServiceCache;
import org.apache.curator.x.discovery.ServiceDiscovery;
import org.apache.curator.x.discovery.ServiceDiscoveryBuilder;
import org.apache.curator.x.discovery.ServiceInstance;
import org.apache.curator.x.discovery.ServiceInstanceBuilder;
import org.apache.curator.x.discovery.ServiceProvider;
import org.apache.curator.x.discovery.details.ServiceCacheListener;

/** Curator's service discovery, told what to do by its arguments: the hosts, the service's path, the payload's class, the command. */
public class Discovery {
    /** A payload of a class that only Java knows. */
    public static class Details {
        public String zone = "b";
        public int weight = 3;
    }

    public static void main(String[] arguments) throws Exception {
        String path = arguments[1];
        int slash = path.lastIndexOf('/');
        String service = path.substring(slash + 1);
        Class<?> payload = arguments[2].isEmpty() ? Object.class : Class.forName(arguments[2]);
        try (CuratorFramework client =
                CuratorFrameworkFactory.newClient(arguments[0], 10_000, 10_000, new RetryNTimes(3, 100))) {
            client.start();
            client.blockUntilConnected();
            run(client, path.substring(0, slash), service, payload, arguments);
        }
    }

    private static <T> void run(
            CuratorFramework client, String base, String service, Class<T> payload, String[] arguments)
            throws Exception {
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        try (ServiceDiscovery<T> discovery =
                ServiceDiscoveryBuilder.builder(payload).client(client).basePath(base).build()) {
            discovery.start();
            switch (arguments[3]) {
                // The id, the address, the port, and what stands in the payload.
                case "register" -> {
                    discovery.registerService(instance(service, arguments[5], payload, arguments));
                    System.out.println("registered");
                    input.readLine();
                    discovery.updateService(instance(service, "10.9.9.9", payload, arguments));
                    System.out.println("updated");
                    input.readLine();
                    discovery.unregisterService(instance(service, arguments[5], payload, arguments));
                    System.out.println("gone");
                }
                case "list" -> System.out.println(described(discovery.queryForInstances(service)));
                // Each time that something changes what the cache has; at last what the provider has.
                case "follow" -> {
                    ServiceProvider<T> provider =
                            discovery.serviceProviderBuilder().serviceName(service).build();
                    ServiceCache<T> cache = discovery.serviceCacheBuilder().name(service).build();
                    cache.addListener(new ServiceCacheListener() {
                        @Override
                        public void cacheChanged() {
                            System.out.println(described(cache.getInstances()));
                        }

                        @Override
                        public void stateChanged(CuratorFramework client, ConnectionState state) {}
                    });
                    provider.start();
                    cache.start();
                    System.out.println(described(cache.getInstances()));
                    input.readLine();
                    // The provider has a cache of its own, which hears of changes by itself.
                    String wanted = described(
                            cache.getInstances().stream().filter(ServiceInstance::isEnabled).toList());
                    for (int tries = 0;
                            tries < 200 && !described(provider.getAllInstances()).equals(wanted);
                            tries++) {
                        Thread.sleep(100);
                    }
                    System.out.println("provider " + described(provider.getAllInstances()));
                    ServiceInstance<T> one = provider.getInstance();
                    System.out.println("one " + (one == null ? null : one.getId()));
                    cache.close();
                    provider.close();
                }
                default -> throw new IllegalArgumentException(arguments[3]);
            }
        }
    }

    private static <T> ServiceInstance<T> instance(
            String service, String address, Class<T> payload, String[] arguments) throws Exception {
        Object content = switch (arguments[7]) {
            case "" -> null;
            case "details" -> new Details();
            case "map" -> new java.util.TreeMap<>(Map.of("zone", "b", "weight", 3));
            default -> arguments[7];
        };
        ServiceInstanceBuilder<T> builder = ServiceInstance.<T>builder().name(service).id(arguments[4]);
        if (arguments[6].equals("ssl")) {
            builder.sslPort(443);
        } else {
            builder.port(Integer.valueOf(arguments[6]));
        }
        return builder.address(address).payload(payload.cast(content)).build();
    }

    private static <T> String described(Collection<ServiceInstance<T>> instances) {
        return instances.stream()
                .map(one -> String.join(
                        " ",
                        one.getName(),
                        one.getId(),
                        one.getAddress(),
                        String.valueOf(one.getPort()),
                        String.valueOf(one.getSslPort()),
                        String.valueOf(one.getPayload()),
                        one.isEnabled() ? "on" : "off"))
                .sorted()
                .collect(Collectors.joining(", ", "[", "]"));
    }
}
