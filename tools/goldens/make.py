"""Writes the reference values that the tests compare with; see README.md."""

import make_assistants
import make_gguf
import make_jinja
import make_logits
import make_rope
import make_texts
import make_vocabularies

if __name__ == "__main__":
    make_logits.main()
    make_assistants.main()
    make_rope.main()
    make_texts.main()
    make_jinja.main()
    make_gguf.main()
    make_vocabularies.main()
