// A client in another language: scores one group with the code that buf generates from the protos.
//   node score.js http://localhost:50052
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { NamespaceService } from "./gen/extra_rl/v1/namespace_pb.js";
import { NoveltyService } from "./gen/extra_rl/v1/novelty_pb.js";

const transport = createGrpcTransport({ baseUrl: process.argv[2] });
const client = createClient(NoveltyService, transport);
const namespace = "javascript";
await createClient(NamespaceService, transport).createNamespace({ namespace, settings: { minHistory: 1 } });

const usual = "Pair the terms from both ends: each pair is 101, there are 50 pairs, so the sum is 5050.";
const other = "By induction the sum of the first n numbers is n(n+1)/2. For n = 100 this gives 5050.";
const wrong = "There are 100 numbers and each is about 50, so the sum is 5000.";

async function score(texts) {
  const correct = texts.map((text) => text !== wrong);
  const response = await client.scoreGroups({ namespace, groups: [{ promptId: "sum-1-to-100", texts, correct }] });
  const [scores] = response.groups;
  if (scores.error?.code) throw new Error(scores.error.message);
  // Arrays are sent as little-endian bytes: here a float32 for each rollout.
  const view = new DataView(scores.novelty.buffer, scores.novelty.byteOffset, scores.novelty.byteLength);
  return texts.map((_, index) => view.getFloat32(4 * index, true));
}

await score([usual, usual]);
console.log(JSON.stringify(await score([usual, other, wrong])));
