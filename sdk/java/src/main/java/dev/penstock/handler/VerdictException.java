package dev.penstock.handler;

/**
 * Carries a verdict. It also counts as the cause of another exception; the outermost one
 * wins.
 */
public final class VerdictException extends RuntimeException {
    private static final long serialVersionUID = 1;

    private final transient Verdict verdict;

    VerdictException(Verdict verdict, Throwable cause) {
        super(Judgement.of(verdict).reason(), cause);
        this.verdict = verdict;
    }

    /** Returns the verdict. */
    public Verdict verdict() {
        return verdict;
    }
}
