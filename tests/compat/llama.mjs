// llama.cpp, through node-llama-cpp: `node llama.mjs MODEL.gguf REQUEST.json`, from the folder of node_modules; prints JSON.
// The request has `texts` (to split), `prompt` (ids), `steps` (tokens to generate greedily), and `messages` (a chat).

import {createRequire} from "node:module";
import {readFile} from "node:fs/promises";
import {pathToFileURL} from "node:url";

const require = createRequire(process.cwd() + "/");
const {getLlama, JinjaTemplateChatWrapper, LlamaChatSession} = await import(
    pathToFileURL(require.resolve("node-llama-cpp"))
);
const [file, requestFile] = process.argv.slice(2);
const request = JSON.parse(await readFile(requestFile, "utf8"));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: 1});
const model = await llama.loadModel({modelPath: file});
const exact = {experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"}; // in place of f16
const context = await model.createContext({contextSize: 512, flashAttention: false, ...exact});
const sequence = context.getSequence();
const whole = {temperature: 1, topK: 0, topP: 1, minP: 0, seed: 1};

// The probabilities of all tokens behind `tokens`.
async function following(tokens) {
    const last = tokens.length - 1;
    const asked = tokens.map((token, at) =>
        at < last ? token : [token, {generateNext: {probabilities: true, options: whole}}]
    );
    return (await sequence.controlledEvaluate(asked))[last].next.probabilities;
}

const answer = {ids: request.texts.map((text) => model.tokenize(text, true))};
answer.again = answer.ids.map((ids) => model.detokenize(ids, false));
let tokens = request.prompt;
answer.made = [];
for (let step = 0; step < request.steps; step++) {
    const found = await following(tokens);
    if (step === 0) answer.probabilities = [...found.entries()].slice(0, 50);
    const [best] = [...found.entries()].reduce((one, other) => other[1] > one[1] ? other : one);
    answer.made.push(best);
    tokens = [best];
}
answer.bos = model.tokens.shouldPrependBosToken ? model.tokens.bos : null;
answer.eos = model.tokens.eos;
if (request.messages) {
    await sequence.clearHistory();
    const template = model.fileInfo.metadata.tokenizer.chat_template;
    const wrapper = new JinjaTemplateChatWrapper({template, tokenizer: model.tokenizer, trimLeadingWhitespaceInResponses: false});
    const session = new LlamaChatSession({contextSequence: sequence, chatWrapper: wrapper, systemPrompt: request.system});
    answer.chat = await session.prompt(request.messages, {temperature: 0, maxTokens: request.steps});
}
console.log(JSON.stringify(answer));
await llama.dispose();
