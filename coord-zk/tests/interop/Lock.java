import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.retry.RetryNTimes;

/** A lock of Curator, told what to do by its arguments: the hosts, the path, nothing, the command. */
public class Lock {
    public static void main(String[] arguments) throws Exception {
        try (CuratorFramework client =
                CuratorFrameworkFactory.newClient(arguments[0], 10_000, 10_000, new RetryNTimes(3, 100))) {
            client.start();
            client.blockUntilConnected();
            InterProcessMutex lock = new InterProcessMutex(client, arguments[1]);
            switch (arguments[3]) {
                case "try" -> {
                    boolean held = lock.acquire(300, TimeUnit.MILLISECONDS);
                    System.out.println(held ? "True" : "False");
                    if (held) {
                        lock.release();
                    }
                }
                case "hold" -> {
                    lock.acquire();
                    System.out.println("held");
                    new BufferedReader(new InputStreamReader(System.in)).readLine();
                    lock.release();
                    System.out.println("released");
                }
                case "count" -> {
                    Path file = Path.of(arguments[4]);
                    for (int round = 0; round < Integer.parseInt(arguments[5]); round++) {
                        lock.acquire();
                        int number = Integer.parseInt(Files.readString(file));
                        Thread.sleep(1);
                        Files.writeString(file, Integer.toString(number + 1));
                        lock.release();
                    }
                    System.out.println("done");
                }
                default -> throw new IllegalArgumentException(arguments[3]);
            }
        }
    }
}
