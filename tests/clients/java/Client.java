import java.io.FileInputStream;
import java.io.IOException;
import java.net.Authenticator;
import java.net.InetSocketAddress;
import java.net.PasswordAuthentication;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** Java's HttpClient: one GET for each argument, with one client. */
public final class Client {
    private static HttpClient client(URI proxy, SSLContext tls) {
        var builder = HttpClient.newBuilder().sslContext(tls);
        if (proxy == null) {
            return builder.build();
        }
        // docs: begin
        // Basic is off for HTTPS by default: before the first client is made, or as -D on the command line.
        System.setProperty("jdk.http.auth.tunneling.disabledSchemes", "");
        String[] login = proxy.getUserInfo().split(":", 2);
        return builder
            .proxy(ProxySelector.of(new InetSocketAddress(proxy.getHost(), proxy.getPort())))
            .authenticator(new Authenticator() {
                @Override
                protected PasswordAuthentication getPasswordAuthentication() {
                    // Not to the origin, should it ask for a password.
                    return getRequestorType() == RequestorType.PROXY
                        ? new PasswordAuthentication(login[0], login[1].toCharArray())
                        : null;
                }
            })
            .build();
        // docs: end
    }

    public static void main(String[] urls) throws Exception {
        var text = System.getenv("CLIENT_PROXY");
        var client = client(text == null ? null : URI.create(text), trust(System.getenv("CLIENT_CA")));
        for (var url : urls) {
            var request = HttpRequest.newBuilder(URI.create(url)).timeout(Duration.ofSeconds(120)).build();
            try {
                var response = client.send(request, HttpResponse.BodyHandlers.ofString());
                System.out.printf("{\"status\":%d,\"body\":%s}%n", response.statusCode(), json(response.body()));
            } catch (IOException error) {
                System.out.printf("{\"error\":%s}%n", json(error.toString()));
            }
        }
    }

    /** Trusts a certificate authority of one's own, from a PEM file, and no other. */
    private static SSLContext trust(String file) throws Exception {
        var store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (var in = new FileInputStream(file)) {
            store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        var context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }

    private static String json(String text) {
        var out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < ' ' || c > '~') {
                out.append(String.format("\\u%04x", (int) c));
            } else {
                out.append(c);
            }
        }
        return out.append('"').toString();
    }
}
