"""Speech models: a log-Mel front end and any mixers behind it, with CTC or a decoder."""

from tokenmix.models.speech.config import SpeechConfig
from tokenmix.models.speech.ctc import MixerForCTC
from tokenmix.models.speech.ctc_text import ctc_text
from tokenmix.models.speech.model import SpeechModel, SpeechOutput, StreamState
from tokenmix.models.speech.processor import build_processor
from tokenmix.models.speech.samba_asr import SambaASRForConditionalGeneration
from tokenmix.models.speech.samba_config import SambaASRConfig
from tokenmix.models.speech.streaming import LogitStream, Transcriber

__all__ = [
    "LogitStream",
    "MixerForCTC",
    "SambaASRConfig",
    "SambaASRForConditionalGeneration",
    "SpeechConfig",
    "SpeechModel",
    "SpeechOutput",
    "StreamState",
    "Transcriber",
    "build_processor",
    "ctc_text",
]
