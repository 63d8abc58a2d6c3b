// A standards-conforming OIDC provider for tests: npm `oidc-provider`, on loopback, memory only.
// Arguments: JSON {port, clients, idTokenSeconds, refreshSeconds, rotate}. Prints its address when it listens.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { generateKeyPairSync } from "node:crypto";
import { pathToFileURL } from "node:url";

const require = createRequire(process.cwd() + "/");
const { Provider } = await import(pathToFileURL(require.resolve("oidc-provider")).href);
const given = JSON.parse(process.argv[2]);

const key = (kid) => {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { ...privateKey.export({ format: "jwk" }), kid, use: "sig", alg: "RS256" };
};

const server = createServer();
server.listen(given.port, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: given.clients,
    jwks: { keys: [key(`key-${Date.now()}`)] },
    cookies: { keys: ["only for tests"] },
    scopes: ["openid", "offline_access", "email"],
    claims: { openid: ["sub"], email: ["email", "email_verified"] },
    conformIdTokenClaims: false,
    features: {
      devInteractions: { enabled: true },
      deviceFlow: { enabled: true },
      revocation: { enabled: true },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: () => ({ scope: "api", accessTokenFormat: "jwt", accessTokenTTL: 300, audience: given.audience }),
      },
    },
    findAccount: (_ctx, id) => ({
      accountId: id,
      claims: () => ({ sub: id, email: `${id}@acme.example`, email_verified: true }),
    }),
    rotateRefreshToken: given.rotate,
    ttl: {
      AccessToken: 300, AuthorizationCode: 60, ClientCredentials: 300, DeviceCode: 120, Grant: 3600,
      IdToken: given.idTokenSeconds, Interaction: 300, RefreshToken: given.refreshSeconds, Session: 3600,
    },
  });
  provider.use(async (ctx, next) => {
    await next();
    // RFC 8628 §3.2: optional, 5 seconds where absent; tests need not wait that long.
    if (ctx.path === "/device/auth" && ctx.body && ctx.body.device_code) ctx.body = { ...ctx.body, interval: 1 };
  });
  server.on("request", provider.callback());
  process.stdout.write(`${issuer}\n`);
});
