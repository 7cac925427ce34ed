/** A word of a segment, where it was spoken. */
export interface Word {
  word: string;
  start_ms: number;
  end_ms: number;
}

/** A piece of speech between two pauses. */
export interface Segment {
  text: string;
  start_ms: number;
  end_ms: number;
  words?: Word[];
}

/** The last message of a session. */
export interface Final {
  op: "final";
  text: string;
  segments: Segment[];
  audio_ms: number;
  latency_ms: number;
  [field: string]: unknown;
}

export type Keyterm = string | {term: string; boost?: number};

/** Rules for the text; docs/interfaces.md of the server describes them. */
export interface TextOptions {
  /** Numbers in digits. */
  numerals?: boolean;
  /** Secrets that are replaced by their names. */
  redact?: ("pci" | "ssn" | "numbers" | "aggressive_numbers" | "email")[];
  /** Profane words in asterisks. */
  profanity_filter?: boolean;
  /** false: without "uh" and "um". */
  filler_words?: boolean;
  /** Words and phrases, and what is written in their place. */
  replace?: Record<string, string>;
}

export interface Options {
  /** The server's origin, or several to try in turn. Default: the page's own. */
  server?: string | string[];
  /** Of the samples that are sent, in Hz. Default: 16000. */
  sampleRate?: number;
  /** Whether segments have the times of their words. Default: true. */
  words?: boolean;
  /** Silence that ends a turn, in milliseconds. */
  silenceMs?: number;
  /** Probability that ends a turn before, from 0.3 to 0.99; silenceMs is then the longest silence within one. */
  turnThreshold?: number;
  /** Names and phrases that will be said; a boost is more than 0 and at most 5, 2 is usual. */
  keyterms?: Keyterm[];
  /** Rules for the text. */
  textOptions?: TextOptions;
  /** "auto" tries WebRTC first. */
  transport?: "auto" | "webrtc" | "websocket";
  /** Gets a short-lived token for each connection from your own backend. */
  token?: () => string | Promise<string>;
  /** An API key, for tools of your own: a page must not know one. */
  key?: string;
  /** How long to try to continue where a session is lost, in milliseconds. Default: 60000. */
  resumeMs?: number;
  /** How long to try to connect to a server that is full or not ready, in milliseconds. Default: 10000. */
  refusedMs?: number;
}

/** What the server refused, or lost: `reason` is one of the codes in the server's docs/protocol.md. */
export class ServerError extends Error {
  readonly reason: string;
  readonly retryAfterMs: number;
  constructor(reason: string, message: string, retryAfterMs?: number);
}

/**
 * A stream of speech. Events: "text" (the text or its stable part has changed), "message" (detail: any message of the server),
 * "trouble" (detail: an Error; it tries again), "resumed", "lost" (detail: an Error; it is over).
 */
export class MoonshineClient extends EventTarget {
  constructor(options?: Options);
  /** All text so far. */
  readonly text: string;
  /** How many leading characters of `text` will never change again. */
  readonly stable: number;
  readonly stableText: string;
  readonly movingText: string;
  readonly segments: Segment[];
  /** "webrtc" or "websocket", once connected. */
  readonly via: "" | "webrtc" | "websocket";
  /** Names and phrases that will be said from now on, in place of those before. */
  setKeyterms(keyterms: Keyterm[]): void;
  /** Resolves when audio may be sent. Rejects where the server cannot be reached or refuses. */
  connect(): Promise<void>;
  /** Send samples, mono, as often as there are some. */
  send(samples: Int16Array): void;
  /** Ask for what has been said so far to be final. */
  flush(): void;
  /** End the stream. Resolves with the last message. */
  close(): Promise<Final>;
}
