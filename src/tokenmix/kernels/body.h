/* Everything for one width of vectors: W numbers in a vector, TILE states of a recurrence in registers. */
#include "vectors.h"
#include "scan.h"
#include "scan_backward.h"
#include "conv.h"
#include "products.h"
#include "ssd.h"
#include "ssd_backward.h"
#include "decode.h"
